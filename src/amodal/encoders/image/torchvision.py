"""Any torchvision classifier as an image encoder, its last layer off."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
import torch.nn.functional as F
import torchvision
from pydantic import Field, field_validator
from torch import Tensor, nn

from amodal.encoders.checkpointing import checkpointed
from amodal.encoders.config import EncoderConfig, LayerGroups, PoolingName
from amodal.encoders.hub import NO_NETWORK
from amodal.encoders.image.preprocessing import IMAGENET_MEAN, IMAGENET_STD, ImagePreprocessor


class TorchvisionConfig(EncoderConfig):
    """Which classifier, with which weights."""

    type: Literal["image"] = "image"
    kind: Literal["torchvision"] = "torchvision"
    name: str = "resnet50"  # of a classification model of torchvision
    weights: str | None = "DEFAULT"  # a name of torchvision, a .safetensors file, or null: random
    size: int = Field(224, ge=16)  # pixels of the square that it sees

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in torchvision.models.list_models(module=torchvision.models):
            raise ValueError(f"torchvision has no classifier {name!r}")
        return name

    @property
    def is_pretrained(self) -> bool:
        return self.weights is not None

    def build(self, pretrained: bool = True) -> TorchvisionEncoder:
        """The encoder.

        Args:
            pretrained: False leaves the weights random, without touching network or files.

        Raises:
            ValueError: the weights cannot be had; says how to give a local file.
        """
        return TorchvisionEncoder(self, pretrained=pretrained)

    def preprocessor(self) -> ImagePreprocessor:
        mean, std = IMAGENET_MEAN, IMAGENET_STD
        if self.weights is not None and not self.weights.endswith(".safetensors"):
            transforms = weights_of(self.name, self.weights).transforms()
            mean, std = tuple(transforms.mean), tuple(transforms.std)
        return ImagePreprocessor(self.size, mean, std)


class TorchvisionEncoder(nn.Module):
    """The trunk of a torchvision classifier; tokens are its final grid, row by row.

    The mean of the tokens is what the classifier's own average pooling gives; for a ViT the
    first token is what its last layer reads.

    Examples:
        >>> import torch
        >>> from amodal.encoders import TorchvisionConfig
        >>> encoder = TorchvisionConfig(name="resnet18", weights=None, size=64).build()
        >>> tokens, _ = encoder(torch.zeros(2, 3, 64, 64))
        >>> tokens.shape, encoder.pooling
        (torch.Size([2, 4, 512]), 'mean')
    """

    def __init__(self, config: TorchvisionConfig, *, pretrained: bool) -> None:
        super().__init__()
        self.config = config
        model = _classifier(config, pretrained)
        self.transformer: Any = None
        self.channels_last = "swin" in config.name
        self.stages: tuple[int, ...] = ()  # where a group of layers of the trunk begins
        if isinstance(model, torchvision.models.VisionTransformer):
            self.transformer = model
            model.heads = nn.Identity()
            self.width = int(model.hidden_dim)
            self.pooling: PoolingName = "cls"
            return
        self.pooling = "mean"
        self.trunk, self.stages = _trunk(model, config.name)
        self.width = self._measure()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def _measure(self) -> int:
        training = self.training
        self.eval()
        tokens, _ = self(torch.zeros(1, 3, self.config.size, self.config.size))
        self.train(training)
        return int(tokens.shape[2])

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, None]:
        """(B, 3, S, S) → tokens (B, N, D)."""
        if self.transformer is not None:
            return self._attend(pixel_values), None
        x = pixel_values.contiguous(memory_format=torch.channels_last)
        for part in self.trunk:
            x = self._run(part, x)
        return (x.flatten(1, 2) if self.channels_last else x.flatten(2).transpose(1, 2)), None

    def _attend(self, pixel_values: Tensor) -> Tensor:
        patches = self.transformer._process_input(pixel_values)
        first = self.transformer.class_token.expand(len(patches), -1, -1)
        encoder = self.transformer.encoder
        x = encoder.dropout(torch.cat([first, patches], dim=1) + encoder.pos_embedding)
        for layer in encoder.layers:
            x = self._run(layer, x)
        normed: Tensor = encoder.ln(x)
        return normed

    def _run(self, part: nn.Module, x: Tensor) -> Tensor:
        if self.config.gradient_checkpointing and self.training:
            return checkpointed(part, x)
        found: Tensor = part(x)
        return found

    def layer_groups(self) -> LayerGroups:
        """Stem, then the stages or layers: what `freeze: n` counts."""
        if self.transformer is not None:
            vit = self.transformer
            stem = [vit.conv_proj, vit.class_token, vit.encoder.pos_embedding]
            return [stem, *[[layer] for layer in vit.encoder.layers]]
        parts = list(self.trunk)
        ends = (*self.stages[1:], len(parts))
        return [parts[start:end] for start, end in zip(self.stages, ends, strict=True)]


def _trunk(model: Any, name: str) -> tuple[nn.Sequential, tuple[int, ...]]:
    """The part of a classifier before its pooling, and where its stem and stages begin."""
    if hasattr(model, "layer4"):  # ResNet, ResNeXt, Wide ResNet
        stem = nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool)
        parts = [stem, model.layer1, model.layer2, model.layer3, model.layer4]
        return nn.Sequential(*parts), tuple(range(5))
    if hasattr(model, "trunk_output"):  # RegNet
        parts = [model.stem, *model.trunk_output]
        return nn.Sequential(*parts), tuple(range(len(parts)))
    if hasattr(model, "conv5"):  # ShuffleNet
        stem = nn.Sequential(model.conv1, model.maxpool)
        parts = [stem, model.stage2, model.stage3, model.stage4, model.conv5]
        return nn.Sequential(*parts), tuple(range(5))
    if isinstance(getattr(model, "layers", None), nn.Sequential):  # MNASNet
        return model.layers, (0, *range(8, 15))  # eight plain layers, six stages, the last three
    if isinstance(getattr(model, "blocks", None), nn.ModuleList):  # MaxViT
        parts = [model.stem, *model.blocks]
        return nn.Sequential(*parts), tuple(range(len(parts)))
    features = getattr(model, "features", None)
    if not isinstance(features, nn.Sequential):
        raise ValueError(f"torchvision {name}: no trunk is known; use kind: timm")
    if isinstance(model, torchvision.models.DenseNet):
        parts = [*features, nn.ReLU()]  # the classifier's forward has it, its modules do not
        return nn.Sequential(*parts), (0, 4, 6, 8, 10)
    if isinstance(model, torchvision.models.SwinTransformer):
        return nn.Sequential(*features, model.norm), (0, 1, 2, 4, 6)
    if isinstance(model, torchvision.models.ConvNeXt):
        return features, (0, 1, 2, 4, 6)  # from its second on, a stage begins by halving the grid
    poolings = [i + 1 for i, part in enumerate(features) if isinstance(part, nn.MaxPool2d)]
    if poolings:  # VGG, AlexNet, SqueezeNet: plain layers, a stage ends with its pooling
        return features, (0, *[i for i in poolings if i < len(features)])
    return features, tuple(range(len(features)))


def _classifier(config: TorchvisionConfig, pretrained: bool) -> Any:
    options: dict[str, Any] = {}
    if config.name.startswith("vit_"):
        options["image_size"] = config.size
    elif config.name.startswith("maxvit"):
        options["input_size"] = (config.size, config.size)
    model = torchvision.models.get_model(config.name, weights=None, **options)
    if pretrained and config.weights is not None:
        load_weights(model, config.name, config.weights, partial(_sized, config=config))
    return model


def _sized(state: dict[str, Tensor], config: TorchvisionConfig) -> dict[str, Tensor]:
    """The positions of a ViT stretched to the size of the images."""
    positions = state.get("encoder.pos_embedding")
    if positions is None:
        return state
    patch = state["conv_proj.weight"].shape[-1]
    side, old = config.size // patch, round((positions.shape[1] - 1) ** 0.5)
    if side == old:
        return state
    grid = positions[:, 1:].transpose(1, 2).unflatten(2, (old, old))
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=True)
    stretched = torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
    return {**state, "encoder.pos_embedding": stretched}


def load_weights(
    model: nn.Module,
    name: str,
    weights: str,
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda state: state,
) -> None:
    """Load weights of torchvision, or of a file, into one of its models.

    Args:
        model: to load them into.
        name: of the model.
        weights: their name, or a .safetensors file.
        change: makes the state fit the model.

    Raises:
        ValueError: they cannot be had, or do not fit.
    """
    state = change(_state(name, weights))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"weights {weights} do not fit {name} as configured: {error}") from None


def weights_of(name: str, weights: str) -> Any:
    """Weights of a model of torchvision, by their name.

    Raises:
        ValueError: it has none of this name.
    """
    known = torchvision.models.get_model_weights(name)
    names = [w.name for w in known]
    if weights != "DEFAULT" and weights not in names:
        raise ValueError(
            f"torchvision {name} has no weights {weights!r}; it has DEFAULT, "
            f"{', '.join(names)}; or give a .safetensors file, or null for random ones"
        )
    return known[weights]


def _state(name: str, weights: str) -> dict[str, Tensor]:
    if weights.endswith(".safetensors"):
        if not Path(weights).is_file():
            raise ValueError(f"{weights}: no such file with weights of {name}")
        try:
            return safetensors.torch.load_file(weights)
        except safetensors.SafetensorError as error:
            raise ValueError(f"{weights}: not a safetensors file: {error}") from None
    found = weights_of(name, weights)
    try:
        # Tensors only, never arbitrary objects, though the hash is checked as well.
        state: dict[str, Tensor] = found.get_state_dict(
            progress=True, check_hash=True, weights_only=True
        )
        return state
    except OSError as error:
        raise ValueError(
            f"the weights of {name} could not be downloaded from {found.url} ({error}); "
            f"give its state dict as a local `weights: FILE.safetensors`, {NO_NETWORK}, or "
            "`weights: null` for random ones"
        ) from None
