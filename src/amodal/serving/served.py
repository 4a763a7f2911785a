"""What a folder can do, and the models that do it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch
import yaml
from torch import Tensor

from amodal.data.record import DataError
from amodal.data.scenes.source import ScenesConfig
from amodal.models.joint_embedding import JointEmbedding
from amodal.models.multimodal_transformer.image_generation import GUIDANCE, TEMPERATURE
from amodal.models.multimodal_transformer.model import MultimodalTransformer
from amodal.models.opening import open_run
from amodal.search.description import FILE, StoreError
from amodal.search.embed import EmbeddingModel
from amodal.search.store import VectorStore

Ability = Literal["search", "ask", "caption", "chat", "draw", "zero-shot"]
# Tasks of a recipe, by what a person does with them.
SAYING: dict[str, Ability] = {
    "vqa": "ask",
    "caption": "caption",
    "dialogue": "chat",
    "single_turn": "ask",
}
TEXTS = 3  # to try drawing with
REFUSED = {
    "FusionModel": "it predicts for rows of several modalities; use `amodal predict {run} SOURCE`",
    "ImageTokenizer": "it is a part of models that draw; serve a run whose tasks have `draw`",
}


class Turns(Protocol):
    """From text to token ids and back."""

    max_length: int

    def ids(self, text: str) -> list[int]: ...
    def text(self, ids: Sequence[int]) -> str: ...
    def unknown(self, text: str) -> list[str]: ...


class Speaks(Protocol):
    """A model that says something about an image."""

    @property
    def chat_template(self) -> Turns: ...
    @property
    def preprocessors(self) -> dict[str, Any]: ...
    def ask(self, image: Any, question: str, **options: Any) -> Any: ...
    def caption(self, images: Sequence[Any], **options: Any) -> list[str]: ...
    def chat(
        self, image: Any, history: Sequence[tuple[str, str]], question: str, **options: Any
    ) -> str: ...
    def attention_map(self, image: Any, question: str, answer: str) -> Tensor: ...


class Draws(Protocol):
    """A model that draws what a text says: uint8 (S, S, 3), one image per text."""

    @property
    def chat_template(self) -> Turns: ...
    def draw(
        self,
        texts: Sequence[str],
        *,
        guidance: float = GUIDANCE,
        temperature: float = TEMPERATURE,
        top_k: int | None = None,
        seed: int | None = None,
    ) -> list[np.ndarray]: ...


@dataclass(frozen=True)
class Served:
    """Models behind a page, by what they can do; None where nothing does it.

    Args:
        name: of the folder.
        kind: what the folder holds, in words.
        embeds: for search and zero-shot classification.
        store: the index to search.
        speaks: for questions, captions and conversations.
        says: which of these it was trained for.
        draws: for images.
        judge: chooses among drawings.
        texts: to try drawing with; such as the model has learned to draw.
        figures: `metrics.json` of the run.
        parameters: numbers that were learned, of all models.
    """

    name: str
    kind: str
    embeds: EmbeddingModel | None = None
    store: VectorStore | None = None
    speaks: Speaks | None = None
    says: tuple[Ability, ...] = ()
    draws: Draws | None = None
    reranker: JointEmbedding | None = None
    texts: tuple[str, ...] = ()
    figures: dict[str, float] = field(default_factory=dict)
    parameters: int = 0

    @property
    def abilities(self) -> tuple[Ability, ...]:
        """What can be done, in the order in which it is offered."""
        found: list[Ability] = []
        if self.store is not None:
            found.append("search")
        elif self.embeds is not None:
            found.append("zero-shot")
        found += self.says
        if self.draws is not None:
            found.append("draw")
        return tuple(found)


def open_served(
    folder: Path,
    *,
    run: Path | None = None,
    image_generator: Path | None = None,
    reranker: Path | None = None,
) -> Served:
    """Open an index or a run with everything that it needs, on the GPU if there is one.

    Args:
        folder: an index, or a run.
        run: of the index, where it moved.
        painter: a run that draws, beside what the folder does itself.
        judge: run of a joint embedding that chooses among its drawings.

    Raises:
        DataError: the folder cannot be served; says why, and what to do with it.
        StoreError: the index or its run cannot be opened.
    """
    parts: dict[str, Any] = _index(folder, run) if (folder / FILE).is_file() else _run(folder)
    models = [parts.get(name) for name in ("embeds", "speaks", "draws")]
    if image_generator is not None:
        artist = _on_device(open_run(image_generator))
        if not getattr(artist, "generates_images", False):
            raise DataError(
                f"{image_generator}: does not generate images; --generator needs a run whose tasks "
                "`draw`"
            )
        models.append(artist)
        parts["draws"] = artist
    if parts.get("draws") is not None:
        parts["texts"] = _texts(image_generator or folder)
    if reranker is not None:
        critic = open_run(reranker)
        if not isinstance(critic, JointEmbedding) or parts.get("draws") is None:
            raise DataError(
                f"{reranker}: --judge is a run of a joint embedding, beside a model that draws"
            )
        models.append(_on_device(critic))
        parts["judge"] = critic
    distinct = {id(model): model for model in models if model is not None}
    count = sum(p.numel() for model in distinct.values() for p in model.parameters())
    return Served(name=folder.resolve().name, parameters=count, **parts)


def _index(folder: Path, run: Path | None) -> dict[str, Any]:
    store = VectorStore.open(folder)
    where = run or store.model_path
    if where is None:
        raise StoreError(f"{folder} does not say which run made it; say where it is with --run")
    model = open_run(where)
    if not isinstance(model, JointEmbedding):
        raise DataError(f"{where}: holds a {type(model).__name__}, searches need a joint embedding")
    store.check_fingerprint(model.fingerprint())
    store.build_index()
    return {
        "kind": "search index",
        "store": store,
        "embeds": _on_device(model),
        "figures": _figures(where),
    }


def _run(folder: Path) -> dict[str, Any]:
    model = open_run(folder)
    figures = _figures(folder)
    if isinstance(model, JointEmbedding):
        if not {"image", "text"} <= set(model.inputs):
            raise DataError(
                f"{folder}: embeds {', '.join(model.inputs)}; the page compares images with "
                "texts. Index something with it and serve the index"
            )
        return {"kind": "joint embedding", "embeds": _on_device(model), "figures": figures}
    if not isinstance(model, MultimodalTransformer):
        kind = type(model).__name__
        why = REFUSED[kind].format(run=folder)
        raise DataError(f"{folder}: holds a {kind}, which is not served: {why}")
    says = _says(folder) if "image" in model.inputs else ()
    draws = model.generates_images
    if not says and not draws:
        raise DataError(f"{folder}: neither speaks about images nor draws; nothing to serve")
    placed = _on_device(model)
    return {
        "kind": "multimodal Transformer",
        "speaks": placed if says else None,
        "says": says,
        "draws": placed if draws else None,
        "figures": figures,
    }


def _on_device(model: Any) -> Any:
    return model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu")).eval()


def _says(run: Path) -> tuple[Ability, ...]:
    """What the recipe trained the model to say; everything where there is no recipe."""
    try:
        recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
        tasks = set(recipe["model"]["tasks"])
    except FileNotFoundError:
        return tuple(dict.fromkeys(SAYING.values()))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise DataError(
            f"{run / 'recipe.yaml'}: has no model.tasks that can be read: {error}"
        ) from None
    return tuple(dict.fromkeys(ability for task, ability in SAYING.items() if task in tasks))


def _texts(run: Path) -> tuple[str, ...]:
    """Captions of scenes like those that the run learned to draw; none where it drew others."""
    try:
        recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
        config = ScenesConfig.model_validate({**recipe["data"]["train"], "part": "validation"})
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError):
        return ()
    source = config.model_copy(update={"size": TEXTS}).open()
    return tuple(str(source[i]["text"][0]) for i in range(TEXTS))


def _figures(run: Path) -> dict[str, float]:
    """The finite numbers of metrics.json; none where there is no such file."""
    try:
        values = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{run / 'metrics.json'}: cannot be read: {error}") from None
    numbers = {name: v for name, v in dict(values).items() if isinstance(v, int | float)}
    return {name: cast(float, v) for name, v in numbers.items() if math.isfinite(v)}
