"""Any torchvision classifier as a picture encoder, its last layer off."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
import torchvision
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from amodal.encoders.config import EncoderConfig, PoolingName
from amodal.encoders.preprocessing import IMAGENET_MEAN, IMAGENET_STD, ImagePreprocessor


class TorchvisionConfig(EncoderConfig):
    """Which classifier, with which weights."""

    kind: Literal["torchvision"] = "torchvision"
    name: str = "resnet50"
    weights: str | None = "DEFAULT"  # a name of torchvision, a .safetensors file, or null: random
    size: int = Field(224, ge=16)  # pixels of the square that it sees

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in torchvision.models.list_models(module=torchvision.models):
            raise ValueError(f"torchvision has no classifier {name!r}")
        return name

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
            transforms = _weights(self).transforms()
            mean, std = tuple(transforms.mean), tuple(transforms.std)
        return ImagePreprocessor(self.size, mean, std)


class TorchvisionEncoder(nn.Module):
    """The trunk of a torchvision classifier; tokens are its final grid, row by row.

    The mean of a ResNet's tokens is what its own average pooling gives.
    """

    def __init__(self, config: TorchvisionConfig, *, pretrained: bool) -> None:
        super().__init__()
        self.config = config
        self.pooling: PoolingName = "mean"
        options: dict[str, Any] = {"image_size": config.size} if "vit" in config.name else {}
        model = torchvision.models.get_model(config.name, weights=None, **options)
        if pretrained and config.weights is not None:
            _load(model, config)
        self.transformer: Any = None
        if isinstance(model, torchvision.models.VisionTransformer):
            self.transformer = model
            model.heads = nn.Identity()
            self.width = int(model.hidden_dim)
            self.pooling = "cls"
        elif hasattr(model, "layer4"):
            self.trunk = nn.Sequential(
                nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool),
                *[model.layer1, model.layer2, model.layer3, model.layer4],
            )
        elif isinstance(getattr(model, "features", None), nn.Sequential):
            self.trunk = model.features
        else:
            raise ValueError(f"torchvision {config.name}: no trunk is known; use kind: timm")
        self.channels_last = "swin" in config.name
        if self.transformer is None:
            self.width = self._measure()
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def _measure(self) -> int:
        training = self.training
        self.eval()
        grid = self.trunk(torch.zeros(1, 3, self.config.size, self.config.size))
        self.train(training)
        return int(grid.shape[3 if self.channels_last else 1])

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, None]:
        """(B, 3, S, S) → tokens (B, N, D)."""
        if self.transformer is not None:
            patches = self.transformer._process_input(pixel_values)
            first = self.transformer.class_token.expand(len(patches), -1, -1)
            return self.transformer.encoder(torch.cat([first, patches], dim=1)), None
        x = pixel_values.contiguous(memory_format=torch.channels_last)
        for part in self.trunk:
            if self.config.gradient_checkpointing and self.training:
                x = checkpoint(part, x, use_reentrant=False)
            else:
                x = part(x)
        return (x.flatten(1, 2) if self.channels_last else x.flatten(2).transpose(1, 2)), None

    def layer_groups(self) -> list[list[nn.Module]]:
        """Stem, then the stages or layers: what `freeze: n` counts."""
        if self.transformer is not None:
            return [
                [self.transformer.conv_proj],
                *[[layer] for layer in self.transformer.encoder.layers],
            ]
        return [[part] for part in self.trunk]


def _weights(config: TorchvisionConfig) -> Any:
    known = torchvision.models.get_model_weights(config.name)
    names = [w.name for w in known]
    if config.weights != "DEFAULT" and config.weights not in names:
        raise ValueError(
            f"torchvision {config.name} has no weights {config.weights!r}; it has DEFAULT, "
            f"{', '.join(names)}; or give a .safetensors file, or null for random ones"
        )
    return known[config.weights]


def _load(model: nn.Module, config: TorchvisionConfig) -> None:
    assert config.weights is not None
    if config.weights.endswith(".safetensors"):
        if not Path(config.weights).is_file():
            raise ValueError(f"{config.weights}: no such file with weights of {config.name}")
        model.load_state_dict(safetensors.torch.load_file(config.weights))
        return
    weights = _weights(config)
    try:
        # torch.hub loads tensors only (weights_only), never arbitrary objects.
        model.load_state_dict(weights.get_state_dict(progress=True, check_hash=True))
    except OSError as error:
        raise ValueError(
            f"the weights of {config.name} could not be downloaded ({error}); give a local "
            "`weights: FILE.safetensors`, or `weights: null` for random ones"
        ) from None
