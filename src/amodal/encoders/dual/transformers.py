"""Whole pretrained dual encoders as a starting point: both towers with their projections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoImageProcessor

from amodal.encoders.dual.base import END_LAST, DualConfig, DualEncoder, Preprocessors
from amodal.encoders.hub import load_pretrained
from amodal.encoders.huggingface import (
    ROLES,
    architecture_of,
    build_model,
    check_length,
)
from amodal.encoders.image.preprocessing import ImagePreprocessor
from amodal.encoders.text.preprocessing import TextPreprocessor
from amodal.encoders.text.tokenizer import (
    PretrainedTokenizerConfig,
)

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)


class TransformersDualConfig(DualConfig):
    """CLIP, SigLIP, SigLIP 2 and their like, from `transformers`."""

    kind: Literal["transformers"] = "transformers"

    def build(self, pretrained: bool = True) -> DualEncoder:
        """The dual encoder; `pretrained=False` needs `architecture` and no network."""
        return _from_transformers(self, pretrained)

    def preprocessors(self, texts: Iterable[str] | None) -> Preprocessors:
        config = architecture_of(self.name, self.architecture)
        source = self.name if self.architecture is None else None
        seen = _image_options(source, config.model_type)
        text = config.text_config
        length = self.max_length or text.max_position_embeddings
        check_length(text, length)
        return {
            "image": ImagePreprocessor(_side(config), **seen),
            "text": TextPreprocessor(
                self.tokenizer_of(texts, text.vocab_size),
                length,
                # SigLIP was trained on texts padded to full length, without a mask.
                padding="max_length" if "siglip" in config.model_type else "longest",
            ),
        }


def _from_transformers(config: DualConfig, pretrained: bool, model: Any = None) -> DualEncoder:
    random = config.architecture is not None
    if model is None:
        model_config = architecture_of(config.name, config.architecture) if random else None
        if config.has_own_vocabulary() and model_config is not None:
            for role in ("pad", "bos", "eos"):
                setattr(model_config.text_config, f"{role}_token_id", END_LAST.index(ROLES[role]))
        model = build_model(config.name, random, model_config, pretrained)
    update: dict[str, Any] = {"architecture": model.config.to_dict()}
    if not random and config.tokenizer is None:
        update["tokenizer"] = PretrainedTokenizerConfig(name=str(config.name))
    resolved = config.model_copy(update=update)
    dim = getattr(model.config, "projection_dim", None)
    if "siglip" in model.config.model_type or dim is None:
        dim = model.config.text_config.hidden_size
        dim = getattr(model.config.text_config, "projection_size", None) or dim
    scale = getattr(model, "logit_scale", None)
    return DualEncoder(
        resolved, model, _transformers_features, scale, int(dim), _side(model.config), length=2
    )


def _transformers_features(model: Any, modality: str, tensors: Mapping[str, Tensor]) -> Tensor:
    if modality == "text":
        given = dict(tensors)
        if "siglip" in model.config.model_type:
            del given["attention_mask"]
        found = model.get_text_features(**given)
    elif model.config.model_type == "siglip2":
        found = model.get_image_features(**_patches(model, tensors["pixel_values"]))
    else:
        found = model.get_image_features(**tensors)
    return found if isinstance(found, Tensor) else found.pooler_output


def _patches(model: Any, pixels: Tensor) -> dict[str, Tensor]:
    """SigLIP 2 takes rows of patches with the shape of their grid."""
    size = model.config.vision_config.patch_size
    batch, channels, height, width = pixels.shape
    rows, columns = height // size, width // size
    patches = (
        pixels[:, :, : rows * size, : columns * size]
        .reshape(batch, channels, rows, size, columns, size)
        .permute(0, 2, 4, 3, 5, 1)
        .reshape(batch, rows * columns, -1)
    )
    ones = torch.ones(batch, rows * columns, dtype=torch.int32, device=pixels.device)
    shapes = torch.tensor([[rows, columns]], device=pixels.device).expand(batch, -1)
    return {"pixel_values": patches, "pixel_attention_mask": ones, "spatial_shapes": shapes}


def _side(config: Any) -> int:
    vision = config.vision_config
    size = getattr(vision, "image_size", None)
    if size is None:  # SigLIP 2 knows the number of patches only
        return int(vision.num_patches**0.5) * int(vision.patch_size)
    return int(size)


def _image_options(name: str | None, model_type: str) -> dict[str, Any]:
    """How the checkpoint saw images: its statistics, cut and interpolation."""
    if name is not None:
        return _of_processor(load_pretrained(AutoImageProcessor, name))
    if "siglip" in model_type:
        return {"mean": HALF, "std": HALF}
    return {"mean": CLIP_MEAN, "std": CLIP_STD, "resize": "crop", "interpolation": "bicubic"}


def _of_processor(processor: Any) -> dict[str, Any]:
    bicubic = int(getattr(processor, "resample", None) or 2) == 3  # PIL's numbers
    return {
        "mean": tuple(processor.image_mean),
        "std": tuple(processor.image_std),
        "resize": "crop" if getattr(processor, "do_center_crop", False) else "squash",
        "interpolation": "bicubic" if bicubic else "bilinear",
    }
