"""Dual encoders of `open_clip`, pretrained or from an architecture."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator
from torch import Tensor
from transformers import CLIPTokenizer

from amodal.encoders.dual.base import END_LAST, DualConfig, DualEncoder, Preprocessors
from amodal.encoders.hub import load_named
from amodal.encoders.image.preprocessing import ImagePreprocessor
from amodal.encoders.text.preprocessing import TextPreprocessor
from amodal.encoders.text.tokenizer import (
    PretrainedTokenizerConfig,
    TrainedTokenizerConfig,
    build_tokenizer,
)

END = END_LAST.index("[SEP]")
ELSEWHERE = ("hf-hub:", "local-dir:")


class OpenClipDualConfig(DualConfig):
    """A model of `open_clip`.

    `name` is one of its models ("ViT-B-32"), with `weights` a pretrained tag or a file; or
    "hf-hub:OWNER/MODEL" or "local-dir:FOLDER", which bring their weights. `architecture` is the
    name of a model or its configuration, for random weights.
    """

    kind: Literal["open_clip"] = "open_clip"
    weights: str | None = None  # pretrained tag or a file

    @model_validator(mode="after")
    def _weights_known(self) -> OpenClipDualConfig:
        alone = self.architecture is None and self.weights is None
        if alone and self.name is not None and not self.name.startswith(ELSEWHERE):
            raise ValueError(
                f"open_clip {self.name}: give `weights` (a pretrained tag or a file), or "
                f"`architecture: {self.name}` for random ones"
            )
        return self

    def build(self, pretrained: bool = True) -> DualEncoder:
        """The dual encoder; with `architecture` or `pretrained=False`, random weights.

        Raises:
            ImportError: the extra is not installed.
            ValueError: the model cannot be loaded.
        """
        open_clip = _open_clip()
        architecture = self._architecture()
        if self.architecture is not None or not pretrained:
            if self.architecture is not None and self.has_own_vocabulary():
                # By default the text ends at its largest id, as only the tokenizer of CLIP has it.
                architecture["text_cfg"].update(pool_type="eos", eos_id=END)
            model = _random_model(open_clip, architecture)
        else:
            tagged = open_clip.get_pretrained_cfg(self.name, self.weights or "") or {}
            quick = bool(architecture.get("quick_gelu") or tagged.get("quick_gelu"))
            architecture["quick_gelu"] = quick
            assert self.name is not None
            model = load_named(
                lambda name: open_clip.create_model(
                    name,
                    pretrained=self.weights,
                    force_quick_gelu=quick,
                    weights_only=True,  # tensors, never arbitrary objects
                    require_pretrained=True,
                ),
                self.name,
            )
        return DualEncoder(
            self.model_copy(update={"architecture": architecture}),
            model,
            _features,
            model.logit_scale,
            int(architecture["embed_dim"]),
            _side(architecture),
            int(architecture["text_cfg"].get("context_length", 77)),
        )

    def has_own_vocabulary(self) -> bool:
        if self.tokenizer is None:
            return self.name is None
        return isinstance(self.tokenizer, TrainedTokenizerConfig)

    def preprocessors(self, texts: Iterable[str] | None) -> Preprocessors:
        architecture = self._architecture()
        text = architecture["text_cfg"]
        positions = int(text.get("context_length", 77))
        if self.max_length is not None and self.max_length != positions:
            raise ValueError(
                f"max_length: {self.max_length}; open_clip pads every text to its {positions} "
                "positions; leave it out, or change context_length in `architecture`"
            )
        if self.tokenizer is not None or self.name is None:
            tokenizer = self.tokenizer_of(texts, int(text.get("vocab_size", 49408)))
        else:
            tokenizer = self._own_tokenizer(text)
        seen = self._images()
        return {
            "image": ImagePreprocessor(
                _side(architecture),
                tuple(seen["mean"]),
                tuple(seen["std"]),
                "squash" if seen["resize_mode"] == "squash" else "crop",
                "bicubic" if seen["interpolation"] == "bicubic" else "bilinear",
            ),
            "text": TextPreprocessor(tokenizer, positions, padding="max_length"),
        }

    def _architecture(self) -> dict[str, Any]:
        if isinstance(self.architecture, dict):
            return copy.deepcopy(self.architecture)
        source = str(self.architecture or self.name)
        found = load_named(_open_clip().get_model_config, source)
        if found is None:
            raise ValueError(f"open_clip has no model {source!r}")
        if "hf_model_name" in found["text_cfg"]:
            raise ValueError(
                f"{source}: its text tower is a Hugging Face model, which is not supported here; "
                "choose a model with a text tower of open_clip, or `kind: transformers`"
            )
        return dict(found)

    def _images(self) -> dict[str, Any]:
        """Statistics, cut and interpolation of the checkpoint; those of CLIP where it has none."""
        open_clip = _open_clip()
        from open_clip.transform import PreprocessCfg, merge_preprocess_dict

        known: Mapping[str, Any] = {}
        if self.name is not None:
            if self.name.startswith("local-dir:"):
                file = Path(self.name.removeprefix("local-dir:")) / "open_clip_config.json"
                known = json.loads(file.read_text(encoding="utf-8")).get("preprocess_cfg", {})
            elif self.name.startswith("hf-hub:"):
                from open_clip.factory import _get_hf_config

                known = _get_hf_config(self.name.removeprefix("hf-hub:")).get("preprocess_cfg", {})
            else:
                known = open_clip.get_pretrained_cfg(self.name, self.weights or "") or {}
        return dict(merge_preprocess_dict(PreprocessCfg(), known))

    def _own_tokenizer(self, text: Mapping[str, Any]) -> Any:
        name = text.get("hf_tokenizer_name")
        if name:
            folder = str(self.name)
            here = folder.startswith("local-dir:")
            source = folder.removeprefix("local-dir:") if here else str(name)
            return build_tokenizer(PretrainedTokenizerConfig(name=source), None)
        return clip_tokenizer()


def clip_tokenizer() -> CLIPTokenizer:
    """The byte-pair encoding of CLIP from the file that `open_clip` brings; no network."""
    _open_clip()
    from open_clip.tokenizer import SimpleTokenizer

    own = SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(token, token): i for token, i in own.encoder.items()}
    return CLIPTokenizer(vocab=vocabulary, merges=list(own.bpe_ranks))


def _open_clip() -> Any:
    try:
        import open_clip
    except ImportError:
        raise ImportError("open_clip is not installed: pip install 'amodal[open_clip]'") from None
    return open_clip


def _random_model(open_clip: Any, architecture: Mapping[str, Any]) -> Any:
    # The factory chooses among the library's classes, and reads configurations from files only.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "open_clip_config.json"
        file.write_text(json.dumps({"model_cfg": architecture}), encoding="utf-8")
        return open_clip.create_model(f"local-dir:{folder}", load_weights=False)


def _features(model: Any, modality: str, tensors: Mapping[str, Tensor]) -> Tensor:
    if modality == "image":
        found: Tensor = model.encode_image(tensors["pixel_values"])
        return found
    ids = tensors["input_ids"]
    text = getattr(model, "text", model)
    pooling = getattr(text, "pool_type", getattr(model, "text_pool_type", "argmax"))
    if pooling == "argmax":
        # The tower reads the largest id as the end of the text; padding may have the same id.
        ids = ids * tensors["attention_mask"]
    encoded: Tensor = model.encode_text(ids)
    return encoded


def _side(architecture: Mapping[str, Any]) -> int:
    size = architecture["vision_cfg"].get("image_size", 224)
    return int(size if isinstance(size, int) else size[0])
