"""Models and indexes behind the page, by what they can do."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from amodal.data.record import DataError
from amodal.data.scenes.source import ScenesConfig
from amodal.data.yaml_document import YamlError, read_yaml
from amodal.evaluators.inputs import text_inputs
from amodal.evaluators.match_threshold import MatchCalibration
from amodal.models.joint_embedding import JointEmbedding
from amodal.models.multimodal_transformer.image_generation import GUIDANCE, TEMPERATURE
from amodal.models.multimodal_transformer.model import MultimodalTransformer
from amodal.search.description import FILE, StoreError
from amodal.search.embed import EmbeddingModel
from amodal.search.store import VectorStore
from amodal.training.features import use_feature_caches
from amodal.training.kinds import kind_of_run, open_run, resolve

Capability = Literal["search", "ask", "caption", "chat", "draw", "zero-shot"]
# Tasks of a recipe -> what a person does with them.
TEXT_CAPABILITIES: dict[str, Capability] = {
    "vqa": "ask",
    "caption": "caption",
    "dialogue": "chat",
    "single_turn": "ask",
}
EXAMPLE_PROMPTS = 3  # for image generation


class Tokenization(Protocol):
    """From text to token ids and back."""

    max_length: int

    def ids(self, text: str) -> list[int]: ...
    def text(self, ids: Sequence[int]) -> str: ...
    def unknown(self, text: str) -> list[str]: ...


class TextGenerator(Protocol):
    """A model that generates text about an image."""

    @property
    def chat_template(self) -> Tokenization: ...
    @property
    def preprocessors(self) -> dict[str, Any]: ...
    def ask(self, image: Any, question: str, **options: Any) -> Any: ...
    def caption(self, images: Sequence[Any], **options: Any) -> list[str]: ...
    def chat(
        self, image: Any, history: Sequence[tuple[str, str]], question: str, **options: Any
    ) -> str: ...
    def attention_map(self, image: Any, question: str, answer: str) -> Tensor: ...


class ImageGenerator(Protocol):
    """A model that generates images of texts: uint8 (S, S, 3), one per text."""

    @property
    def chat_template(self) -> Tokenization: ...
    def generate_images(
        self,
        texts: Sequence[str],
        *,
        guidance: float = GUIDANCE,
        temperature: float = TEMPERATURE,
        top_k: int | None = None,
        seed: int | None = None,
    ) -> list[np.ndarray]: ...


@dataclass(frozen=True)
class ServedModels:
    """Models behind the page, by what they can do; None where no model does it.

    Args:
        name: of the folder.
        kind: the content of the folder in words.
        embedding_model: for search and zero-shot classification.
        store: the index to search.
        calibration: what the scores of its hits say about a match.
        text_generator: for questions, captions and conversations.
        text_tasks: which of these the model was trained for.
        image_generator: for images.
        reranker: chooses among generated images.
        example_prompts: examples for image generation, like those of its training.
        metrics: `metrics.json` of the run.
        parameters: of all models.
    """

    name: str
    kind: str
    embedding_model: EmbeddingModel | None = None
    store: VectorStore | None = None
    calibration: MatchCalibration | None = None
    text_generator: TextGenerator | None = None
    text_tasks: tuple[Capability, ...] = ()
    image_generator: ImageGenerator | None = None
    reranker: JointEmbedding | None = None
    example_prompts: tuple[str, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    parameters: int = 0

    @property
    def capabilities(self) -> tuple[Capability, ...]:
        """Capabilities in the order in which the page offers them."""
        found: list[Capability] = []
        if self.store is not None:
            found.append("search")
        elif self.embedding_model is not None:
            found.append("zero-shot")
        found += self.text_tasks
        if self.image_generator is not None:
            found.append("draw")
        return tuple(found)


def open_served(
    folder: Path,
    *,
    run: Path | None = None,
    image_generator: Path | None = None,
    reranker: Path | None = None,
    warn: Callable[[str], None] = lambda message: None,
) -> ServedModels:
    """Open an index or a run with everything that it needs, on the GPU if there is one.

    Args:
        folder: an index, or a run.
        run: of the index, where it moved.
        image_generator: a run that generates images, beside what the folder does itself.
        reranker: run of a joint embedding that chooses among the generated images.
        warn: called with a message that the user should read.

    Raises:
        DataError: the folder cannot be served; says why, and what to do with it.
        StoreError: the index or its run cannot be opened.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from amodal.encoders import SmallCNNConfig, SmallTransformerConfig
        >>> from amodal.models.joint_embedding import Architecture, build_joint_embedding
        >>> from amodal.projection import LinearConfig
        >>> from amodal.serving import open_served
        >>> text = SmallTransformerConfig(width=16, layers=1, heads=2)
        >>> encoders = {"image": SmallCNNConfig(size=32, widths=(8, 16)), "text": text}
        >>> records = [{"text": ["a red circle"]}]
        >>> architecture = Architecture(encoders=encoders, projection=LinearConfig(dim=8))
        >>> model = build_joint_embedding(architecture, lambda: iter(records))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save_pretrained(folder)
        ...     open_served(Path(folder)).capabilities
        ('zero-shot',)
    """
    is_index = (folder / FILE).is_file()
    parts: dict[str, Any] = _index(folder, run, warn) if is_index else _run(folder, warn)
    models = [parts.get(name) for name in ("embedding_model", "text_generator", "image_generator")]
    if image_generator is not None:
        generator: Any = open_run(image_generator)
        if not getattr(generator, "generates_images", False):
            raise DataError(
                f"{image_generator}: does not generate images; --generator needs a run with "
                "model.tasks: [text_to_image]"
            )
        parts["image_generator"] = _on_device(generator)
        models.append(parts["image_generator"])
    if parts.get("image_generator") is not None:
        parts["example_prompts"] = _example_prompts(image_generator or folder)
    if reranker is not None:
        if (
            parts.get("image_generator") is None
            or "rerank" not in kind_of_run(reranker).capabilities
        ):
            raise DataError(
                f"{reranker}: --reranker is a run of a joint embedding, beside a model that "
                "generates images"
            )
        parts["reranker"] = _on_device(open_run(reranker, "joint_embedding"))
        models.append(parts["reranker"])
    distinct = {id(model): model for model in models if model is not None}
    count = sum(p.numel() for model in distinct.values() for p in model.parameters())
    return ServedModels(name=folder.resolve().name, parameters=count, **parts)


def _index(folder: Path, run: Path | None, warn: Callable[[str], None]) -> dict[str, Any]:
    store = VectorStore.open(folder)
    where = run or store.model_path
    if where is None:
        raise StoreError(f"{folder} does not record its run; pass --run RUN")
    model = open_run(where, "joint_embedding")
    store.check_fingerprint(*model.fingerprints())
    use_feature_caches(where, model, warn=warn)
    store.build_index()
    return {
        "kind": "search index",
        "store": store,
        "calibration": MatchCalibration.read(where, store.fingerprint),
        "embedding_model": _on_device(model),
        "metrics": _metrics(where),
    }


def _run(folder: Path, warn: Callable[[str], None]) -> dict[str, Any]:
    kind = kind_of_run(folder)
    if kind.serve is None:
        raise DataError(
            f"{folder}: holds {kind.phrase}, which is not served; {kind.purpose.format(run=folder)}"
        )
    model = open_run(folder)
    use_feature_caches(folder, model, warn=warn)
    parts: dict[str, Any] = resolve(kind.serve)(folder, model)
    return {"kind": kind.phrase.partition(" ")[2], "metrics": _metrics(folder), **parts}


def serve_joint_embedding(folder: Path, model: JointEmbedding) -> dict[str, Any]:
    """Zero-shot classification of the values of an input by texts.

    Raises:
        DataError: the model has no text input, or no other.
    """
    if not text_inputs(model) or len(text_inputs(model)) == len(model.inputs):
        raise DataError(
            f"{folder}: embeds {', '.join(model.inputs)}; the page compares texts with values of "
            "another input. Index something with it and serve the index"
        )
    return {"embedding_model": _on_device(model)}


def serve_multimodal_transformer(folder: Path, model: MultimodalTransformer) -> dict[str, Any]:
    """Questions, captions and conversations about images, or image generation.

    Raises:
        DataError: the model does neither.
    """
    capabilities = _text_capabilities(folder) if model.inputs else ()
    if not capabilities and not model.generates_images:
        raise DataError(
            f"{folder}: generates neither text about images nor images; nothing to serve"
        )
    placed = _on_device(model)
    return {
        "text_generator": placed if capabilities else None,
        "text_tasks": capabilities,
        "image_generator": placed if model.generates_images else None,
    }


def _on_device(model: Any) -> Any:
    return model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu")).eval()


def _text_capabilities(run: Path) -> tuple[Capability, ...]:
    """Capabilities that the recipe trained; all of them where there is no recipe."""
    tasks = _recipe_value(run, "model", "tasks")
    return tuple(
        dict.fromkeys(
            capability
            for task, capability in TEXT_CAPABILITIES.items()
            if tasks is None or task in tasks
        )
    )


def _example_prompts(run: Path) -> tuple[str, ...]:
    """Captions like those of the training scenes; none where the run was trained on other data."""
    try:
        trained = _recipe_value(run, "data", "train")
        if trained is None:
            return ()
        config = ScenesConfig.model_validate({**trained, "split": "validation"})
    except (ValueError, TypeError):
        return ()
    source = config.model_copy(update={"size": EXAMPLE_PROMPTS}).open()
    return tuple(str(source[i]["text"][0]) for i in range(EXAMPLE_PROMPTS))


def _recipe_value(run: Path, part: str, key: str) -> Any:
    """A value of the recipe of a run; None where there is no recipe.

    Raises:
        DataError: the recipe lacks it, or cannot be read.
    """
    file = run / "recipe.yaml"
    if not file.is_file():
        return None
    try:
        return read_yaml(file)[part][key]
    except (YamlError, KeyError, TypeError) as error:
        raise DataError(f"{file}: has no {part}.{key} that can be read: {error}") from None


def _metrics(run: Path) -> dict[str, float]:
    """The finite numbers of metrics.json; none where there is no such file."""
    try:
        values = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{run / 'metrics.json'}: cannot be read: {error}") from None
    numbers = {name: v for name, v in dict(values).items() if isinstance(v, int | float)}
    return {name: cast(float, v) for name, v in numbers.items() if math.isfinite(v)}
