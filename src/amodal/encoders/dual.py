"""Whole pretrained dual encoders as a starting point: both towers with their projections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers import AutoImageProcessor

from amodal.encoders.adaptation import adapt, freeze_unused
from amodal.encoders.config import EncoderConfig, LayerGroups
from amodal.encoders.hub import load_named
from amodal.encoders.huggingface import (
    ROLES,
    architecture_of,
    build_model,
    check_length,
    enable_checkpointing,
)
from amodal.encoders.preprocessing import ImagePreprocessor, TextPreprocessor
from amodal.encoders.tokenizer import (
    PretrainedTokenizerConfig,
    TokenizerConfig,
    TrainedTokenizerConfig,
    build_tokenizer,
)

Preprocessors = dict[str, ImagePreprocessor | TextPreprocessor]
# CLIP ends a text where the end token stands, but takes an end token of id 2 for a sign of an
# old checkpoint, whose end is the largest id. So [SEP], which ends a text, comes last here.
END_LAST = ("[PAD]", "[CLS]", "[MASK]", "[UNK]", "[SEP]")
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)


class DualConfig(EncoderConfig):
    """Which model: a name or folder, or an architecture with random weights."""

    name: str | None = None
    # A mapping, or the name or folder of one; where given, weights are random.
    architecture: dict[str, Any] | str | None = None
    max_length: int | None = Field(None, ge=4)  # tokens; None means what the model was made for
    tokenizer: TokenizerConfig | None = None  # None: the model's own, or one trained on the texts

    @model_validator(mode="after")
    def _which(self) -> DualConfig:
        if self.name is None and self.architecture is None:
            raise ValueError("give `name` (hub or folder) or `architecture` (random weights)")
        if self.architecture is None and isinstance(self.tokenizer, TrainedTokenizerConfig):
            raise ValueError(
                f"the pretrained weights of {self.name} know the ids of their own tokenizer only; "
                "leave `tokenizer` out, or give `architecture` for random weights"
            )
        return self

    def has_own_vocabulary(self) -> bool:
        """Whether the tokenizer is trained on the user's captions."""
        if self.tokenizer is None:
            return self.architecture is not None
        return isinstance(self.tokenizer, TrainedTokenizerConfig)

    def tokenizer_of(self, texts: Iterable[str] | None, size: int) -> Any:
        """The tokenizer, of at most `size` tokens.

        Raises:
            ValueError: it has more, or there is none.
        """
        chosen = self.tokenizer
        if chosen is None and not self.has_own_vocabulary() and self.name is not None:
            chosen = PretrainedTokenizerConfig(name=self.name)
        chosen = chosen or TrainedTokenizerConfig(vocab_size=size)
        tokenizer = build_tokenizer(chosen, texts, END_LAST)
        if len(tokenizer) > size:
            raise ValueError(
                f"the tokenizer has {len(tokenizer)} tokens, the model {size}; set "
                f"`tokenizer.vocab_size` to {size} or less, or a larger one in `architecture`"
            )
        return tokenizer


class TransformersDualConfig(DualConfig):
    """CLIP, SigLIP, SigLIP 2 and their like, from `transformers`."""

    kind: Literal["transformers"] = "transformers"

    def build(self, pretrained: bool = True) -> DualEncoder:
        """The dual encoder; `pretrained=False` needs `architecture` and no network."""
        return _from_transformers(self, pretrained)

    def preprocessors(self, texts: Iterable[str] | None) -> Preprocessors:
        config = architecture_of(self.name, self.architecture)
        source = self.name if self.architecture is None else None
        seen = _picture_options(source, config.model_type)
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


class SentenceTransformersDualConfig(DualConfig):
    """A CLIP-like model of `sentence-transformers`."""

    kind: Literal["sentence_transformers"] = "sentence_transformers"

    def build(self, pretrained: bool = True) -> DualEncoder:
        """The dual encoder; `pretrained=False` needs `architecture` and no network.

        Raises:
            ImportError: the extra is not installed.
            ValueError: the model has no picture tower, or layers after its towers.
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
        modules = list(load_named(lambda name: SentenceTransformer(name, device="cpu"), self.name))
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


class DualEncoder(nn.Module):
    """Two towers that end in one space; each value becomes one token, not yet of unit length.

    Args:
        config: self-contained, so that a rebuild needs no network.
        model: the library's model.
        features: (model, modality, tensors) → (B, E).
        log_scale: the checkpoint's log of the inverse temperature, or None.
        dim: E.
        side: pixels of the square that the picture tower sees.
        length: tokens of a text that the text tower takes.
    """

    modalities = ("image", "text")

    def __init__(
        self,
        config: Any,
        model: Any,
        features: Any,
        log_scale: Tensor | None,
        dim: int,
        side: int,
        length: int,
    ) -> None:
        super().__init__()
        self.config = config
        self.model = model
        self.features = features
        self.dim = dim
        self.initial_log_scale = float(log_scale.detach()) if log_scale is not None else None
        # The loss owns the temperature; the model's own scale and bias would get no gradient.
        for name in ("logit_scale", "logit_bias"):
            if isinstance(getattr(model, name, None), nn.Parameter):
                getattr(model, name).requires_grad_(False)
        if config.gradient_checkpointing:
            if hasattr(model, "set_grad_checkpointing"):  # open_clip
                model.set_grad_checkpointing()
            else:
                enable_checkpointing(model)
        ids = torch.ones(1, length, dtype=torch.int64)
        freeze_unused(
            self,
            lambda: (
                self("image", pixel_values=torch.zeros(1, 3, side, side))[0]
                + self("text", input_ids=ids, attention_mask=ids)[0]
            ),
        )
        adapt(self)

    def width(self, modality: str) -> int:
        """E of the tokens of `modality`."""
        return self.dim

    def forward(self, modality: str, **tensors: Tensor) -> tuple[Tensor, None]:
        """The tensors of one modality → (B, 1, E)."""
        return self.features(self.model, modality, tensors).unsqueeze(1), None

    def layer_groups(self) -> LayerGroups:
        """Both stems, then layer i of both towers together: what `freeze: n` counts."""
        stacks = [
            list(m)
            for n, m in self.model.named_modules()
            if isinstance(m, nn.ModuleList) and n.split(".")[-1] in ("layers", "resblocks")
        ]
        stems: list[nn.Module | nn.Parameter] = [
            m
            for n, m in self.model.named_modules()
            if n.split(".")[-1]
            in ("embeddings", "conv1", "ln_pre", "pre_layrnorm", "token_embedding", "patch_embed")
        ]
        stems += [
            p
            for n, p in self.model.named_parameters()
            if n.split(".")[-1] in ("class_embedding", "positional_embedding")
        ]
        deepest = max((len(s) for s in stacks), default=0)
        return [stems, *[[s[i] for s in stacks if i < len(s)] for i in range(deepest)]]


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


def _picture_options(name: str | None, model_type: str) -> dict[str, Any]:
    """How the checkpoint saw pictures: its statistics, cut and interpolation."""
    if name is not None:
        return _of_processor(load_named(AutoImageProcessor.from_pretrained, name))
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
