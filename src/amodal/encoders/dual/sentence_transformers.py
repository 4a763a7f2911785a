"""CLIP-like models of `sentence-transformers` as dual encoders."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from amodal.encoders.dual.base import DualConfig, DualEncoder, Preprocessors
from amodal.encoders.dual.transformers import (
    TransformersDualConfig,
    _from_transformers,
    _of_processor,
    _side,
)
from amodal.encoders.hub import load_named
from amodal.encoders.huggingface import (
    check_length,
)
from amodal.encoders.image.preprocessing import ImagePreprocessor
from amodal.encoders.text.preprocessing import TextPreprocessor


class SentenceTransformersDualConfig(DualConfig):
    """A CLIP-like model of `sentence-transformers`."""

    kind: Literal["sentence_transformers"] = "sentence_transformers"

    def build(self, pretrained: bool = True) -> DualEncoder:
        """The dual encoder; `pretrained=False` needs `architecture` and no network.

        Raises:
            ImportError: the extra is not installed.
            ValueError: the model has no image tower, or layers after its towers.
        """
        if self.architecture is None and pretrained:
            return _from_transformers(self, pretrained, self._towers().model.float())
        return _from_transformers(self, pretrained)

    def _towers(self) -> Any:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise ImportError(
                "sentence-transformers is not installed: "
                "pip install 'amodal[sentence_transformers]'"
            ) from None
        assert self.name is not None
        _check_modules(Path(self.name))
        modules = list(
            load_named(
                lambda name: SentenceTransformer(
                    name,
                    device="cpu",
                    trust_remote_code=False,
                    model_kwargs={"weights_only": True},  # tensors, never arbitrary objects
                ),
                self.name,
            )
        )
        towers = modules[0]
        if not hasattr(getattr(towers, "model", None), "get_image_features") or len(modules) > 1:
            kinds = ", ".join(type(m).__name__ for m in modules)
            raise ValueError(f"{self.name}: expected one CLIP-like module, it has {kinds}")
        return towers

    def preprocessors(self, texts: Iterable[str] | None) -> Preprocessors:
        same = TransformersDualConfig(
            name=self.name,
            architecture=self.architecture,
            max_length=self.max_length,
            tokenizer=self.tokenizer,
        )
        if self.architecture is not None:
            return same.preprocessors(texts)
        towers = self._towers()
        config, processor = towers.model.config, towers.processor
        text = config.text_config
        length = self.max_length or text.max_position_embeddings
        check_length(text, length)
        return {
            "image": ImagePreprocessor(_side(config), **_of_processor(processor.image_processor)),
            "text": TextPreprocessor(
                processor.tokenizer,
                length,
                padding="max_length" if "siglip" in config.model_type else "longest",
            ),
        }


def _check_modules(folder: Path) -> None:
    """Refuse a local folder with module classes of its own, which releases before 6.0 import.

    Raises:
        ValueError: names the class.
    """
    file = folder / "modules.json"
    if not file.is_file():
        return
    try:
        types = [str(module["type"]) for module in json.loads(file.read_text(encoding="utf-8"))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: cannot be read as a list of modules: {error!r}") from None
    for name in types:
        if not name.startswith("sentence_transformers."):
            raise ValueError(
                f"{file}: {name} is not a class of sentence-transformers; code that a model brings "
                "is never run"
            )
