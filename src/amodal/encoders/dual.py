"""Whole pretrained dual encoders as a starting point: both towers with their projections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel

from amodal.encoders.adaptation import adapt
from amodal.encoders.config import EncoderConfig
from amodal.encoders.hub import load_named
from amodal.encoders.preprocessing import ImagePreprocessor, TextPreprocessor
from amodal.encoders.tokenizer import (
    PretrainedTokenizerConfig,
    TokenizerConfig,
    TrainedTokenizerConfig,
    build_tokenizer,
)

Preprocessors = dict[str, ImagePreprocessor | TextPreprocessor]
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)


class DualConfig(EncoderConfig):
    """Which model: a name or folder, or an architecture with random weights."""

    name: str | None = None
    architecture: dict[str, Any] | None = None  # where given, weights are random
    max_length: int | None = Field(None, ge=4)  # tokens; None means what the model was made for
    tokenizer: TokenizerConfig | None = None  # None: the model's own, or one trained on the texts

    @model_validator(mode="after")
    def _which(self) -> DualConfig:
        if self.name is None and self.architecture is None:
            raise ValueError("give `name` (hub or folder) or `architecture` (random weights)")
        return self

    def _tokenizer(self, texts: Iterable[str] | None, size: int) -> Any:
        chosen = self.tokenizer
        if chosen is None and self.architecture is None and self.name is not None:
            chosen = PretrainedTokenizerConfig(name=self.name)
        return build_tokenizer(chosen or TrainedTokenizerConfig(vocab_size=size), texts)


class TransformersDualConfig(DualConfig):
    """CLIP, SigLIP, SigLIP 2 and their like, from `transformers`."""

    kind: Literal["transformers"] = "transformers"

    def model_config_of(self) -> Any:
        if self.architecture is not None:
            values = dict(self.architecture)
            return AutoConfig.for_model(values.pop("model_type"), **values)
        assert self.name is not None
        return load_named(AutoConfig.from_pretrained, self.name)

    def build(self, pretrained: bool = True) -> DualEncoder:
        """The dual encoder; with `architecture`, random weights and no network."""
        if self.architecture is not None:
            model = AutoModel.from_config(self.model_config_of())
        else:
            assert self.name is not None
            model = load_named(AutoModel.from_pretrained, self.name)
        return _from_transformers(self, model)

    def preprocessors(self, texts: Iterable[str] | None) -> Preprocessors:
        config = self.model_config_of()
        mean, std = _statistics(self.name if self.architecture is None else None, config.model_type)
        text = config.text_config
        return {
            "image": ImagePreprocessor(_side(config), mean, std),
            "text": TextPreprocessor(
                self._tokenizer(texts, text.vocab_size),
                self.max_length or text.max_position_embeddings,
                # SigLIP was trained on texts padded to full length, without a mask.
                padding="max_length" if "siglip" in config.model_type else "longest",
            ),
        }


class SentenceTransformersDualConfig(DualConfig):
    """A CLIP-like model of `sentence-transformers`."""

    kind: Literal["sentence_transformers"] = "sentence_transformers"

    def build(self, pretrained: bool = True) -> DualEncoder:
        """The dual encoder; with `architecture`, random weights and no network.

        Raises:
            ImportError: the extra is not installed.
            ValueError: the model has no picture tower, or layers after its towers.
        """
        if self.architecture is not None:
            values = dict(self.architecture)
            config = AutoConfig.for_model(values.pop("model_type"), **values)
            return _from_transformers(self, AutoModel.from_config(config))
        return _from_transformers(self, self._towers().model)

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
        image = processor.image_processor
        length = self.max_length or config.text_config.max_position_embeddings
        return {
            "image": ImagePreprocessor(
                _side(config), tuple(image.image_mean), tuple(image.image_std)
            ),
            "text": TextPreprocessor(processor.tokenizer, length),
        }


class OpenClipDualConfig(DualConfig):
    """A model of `open_clip`.

    `name` is one of its architectures ("ViT-B-32") or "hf-hub:…" / "local-dir:…"; `weights` a
    pretrained tag or a file; `architecture` its model configuration, for random weights.
    """

    kind: Literal["open_clip"] = "open_clip"
    weights: str | None = None

    def build(self, pretrained: bool = True) -> DualEncoder:
        """The dual encoder; with `architecture`, or `pretrained=False`, random weights.

        Raises:
            ImportError: the extra is not installed.
        """
        open_clip = _open_clip()
        if self.architecture is not None:
            model = open_clip.CLIP(**_towers_of(open_clip, self.architecture))
            architecture = self.architecture
        else:
            assert self.name is not None
            architecture = open_clip.get_model_config(self.name)
            if architecture is not None and not pretrained:
                model = open_clip.CLIP(**_towers_of(open_clip, architecture))
            else:
                # open_clip reads checkpoints with weights_only, as its default says.
                model = open_clip.create_model(
                    self.name, pretrained=self.weights if pretrained else None
                )
        resolved = self.model_copy(update={"architecture": architecture})
        return DualEncoder(
            resolved,
            model,
            _open_clip_features,
            model.logit_scale,
            int(architecture["embed_dim"]) if architecture else _probe_width(model),
        )

    def preprocessors(self, texts: Iterable[str] | None) -> Preprocessors:
        open_clip = _open_clip()
        architecture = self.architecture or open_clip.get_model_config(self.name)
        if architecture is None:
            raise ValueError(f"open_clip has no architecture {self.name!r}")
        size = int(architecture["vision_cfg"].get("image_size", 224))
        text = architecture["text_cfg"]
        chosen = self.tokenizer or (
            TrainedTokenizerConfig(vocab_size=text["vocab_size"])
            if self.architecture is not None
            # The byte-pair encoding of CLIP, which open_clip and this hub model share.
            else PretrainedTokenizerConfig(name="openai/clip-vit-base-patch32")
        )
        return {
            "image": ImagePreprocessor(size, CLIP_MEAN, CLIP_STD),
            "text": TextPreprocessor(
                build_tokenizer(chosen, texts),
                self.max_length or int(text.get("context_length", 77)),
                padding="max_length",
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
    """

    modalities = ("image", "text")

    def __init__(
        self, config: Any, model: Any, features: Any, log_scale: Tensor | None, dim: int
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
            enable = getattr(model, "gradient_checkpointing_enable", None)
            (enable or model.set_grad_checkpointing)()
        adapt(self)

    def width(self, modality: str) -> int:
        """E of the tokens of `modality`."""
        return self.dim

    def forward(self, modality: str, **tensors: Tensor) -> tuple[Tensor, None]:
        """The tensors of one modality → (B, 1, E)."""
        return self.features(self.model, modality, tensors).unsqueeze(1), None

    def layer_groups(self) -> list[list[nn.Module]]:
        """Both stems, then layer i of both towers together: what `freeze: n` counts."""
        stacks = [
            list(m)
            for n, m in self.model.named_modules()
            if isinstance(m, nn.ModuleList) and n.split(".")[-1] in ("layers", "resblocks")
        ]
        stems = [
            m
            for n, m in self.model.named_modules()
            if n.split(".")[-1] in ("embeddings", "conv1", "token_embedding", "patch_embed")
        ]
        deepest = max((len(s) for s in stacks), default=0)
        return [stems, *[[s[i] for s in stacks if i < len(s)] for i in range(deepest)]]


def _from_transformers(config: Any, model: Any) -> DualEncoder:
    resolved = config.model_copy(update={"architecture": model.config.to_dict()})
    dim = getattr(model.config, "projection_dim", None)
    if "siglip" in model.config.model_type or dim is None:
        dim = model.config.text_config.hidden_size
        dim = getattr(model.config.text_config, "projection_size", None) or dim
    return DualEncoder(
        resolved, model, _transformers_features, getattr(model, "logit_scale", None), int(dim)
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


def _open_clip_features(model: Any, modality: str, tensors: Mapping[str, Tensor]) -> Tensor:
    if modality == "image":
        found: Tensor = model.encode_image(tensors["pixel_values"])
        return found
    # CLIP's tower reads the token with the largest id as the end of the text.
    ids = tensors["input_ids"] * tensors["attention_mask"]
    encoded: Tensor = model.encode_text(ids)
    return encoded


def _side(config: Any) -> int:
    vision = config.vision_config
    size = getattr(vision, "image_size", None)
    if size is None:  # SigLIP 2 knows the number of patches only
        return int(vision.num_patches**0.5) * int(vision.patch_size)
    return int(size)


def _statistics(name: str | None, model_type: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if name is not None:
        found = load_named(AutoImageProcessor.from_pretrained, name)
        return tuple(found.image_mean), tuple(found.image_std)
    return (HALF, HALF) if "siglip" in model_type else (CLIP_MEAN, CLIP_STD)


def _open_clip() -> Any:
    try:
        import open_clip
    except ImportError:
        raise ImportError("open_clip is not installed: pip install 'amodal[open_clip]'") from None
    return open_clip


def _towers_of(open_clip: Any, architecture: Mapping[str, Any]) -> dict[str, Any]:
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    return {
        "embed_dim": architecture["embed_dim"],
        "vision_cfg": CLIPVisionCfg(**architecture["vision_cfg"]),
        "text_cfg": CLIPTextCfg(**architecture["text_cfg"]),
        "quick_gelu": bool(architecture.get("quick_gelu", False)),
    }


def _probe_width(model: Any) -> int:
    return int(model.text_projection.shape[-1])
