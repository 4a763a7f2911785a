"""Any timm model as a picture encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import timm
from pydantic import Field
from timm.data.config import resolve_data_config
from torch import Tensor, nn

from amodal.encoders.config import EncoderConfig, PoolingName
from amodal.encoders.preprocessing import ImagePreprocessor


class TimmConfig(EncoderConfig):
    """Which model, with which weights."""

    kind: Literal["timm"] = "timm"
    name: str
    weights: bool | str = True  # true: timm's own; false: random; or a .safetensors file
    size: int | None = Field(None, ge=16)  # pixels; None means what the model was made for

    def build(self, pretrained: bool = True) -> TimmEncoder:
        """The encoder; `pretrained=False` touches neither network nor files.

        Raises:
            ValueError: timm has no such model, or its weights cannot be had.
        """
        return TimmEncoder(self, pretrained=pretrained)

    def preprocessor(self) -> ImagePreprocessor:
        data = resolve_data_config({}, pretrained_cfg=_known(self.name).to_dict())
        return ImagePreprocessor(self.size or data["input_size"][1], data["mean"], data["std"])


class TimmEncoder(nn.Module):
    """The features of a timm model before its pooling, as tokens."""

    def __init__(self, config: TimmConfig, *, pretrained: bool) -> None:
        super().__init__()
        self.config = config
        _known(config.name)
        options: dict[str, Any] = {}
        if pretrained and isinstance(config.weights, str):
            if not Path(config.weights).is_file():
                raise ValueError(f"{config.weights}: no such file with weights of {config.name}")
            options["pretrained_cfg_overlay"] = {"file": config.weights}
        wanted = pretrained and config.weights is not False
        model = self._create(config, wanted, options)
        if config.gradient_checkpointing:
            model.set_grad_checkpointing(True)
        self.model = model
        self.width = int(model.num_features)
        self.prefix = int(getattr(model, "num_prefix_tokens", 0))
        first = getattr(model, "global_pool", "") == "token"
        self.pooling: PoolingName = "cls" if first else "mean"

    @staticmethod
    def _create(config: TimmConfig, pretrained: bool, options: dict[str, Any]) -> Any:
        try:
            try:
                size: dict[str, Any] = {} if config.size is None else {"img_size": config.size}
                return timm.create_model(
                    config.name, pretrained=pretrained, num_classes=0, **size, **options
                )
            except TypeError:  # networks without positions take any size and know no `img_size`
                return timm.create_model(
                    config.name, pretrained=pretrained, num_classes=0, **options
                )
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"timm {config.name}: its weights cannot be loaded ({error}); give "
                "`weights: FILE.safetensors`, or `weights: false` for random ones"
            ) from None

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, None]:
        """(B, 3, S, S) → tokens (B, N, D); prefix tokens only where they are pooled."""
        x = self.model.forward_features(pixel_values)
        if x.ndim == 4:
            channels_first = x.shape[1] == self.width and x.shape[3] != self.width
            tokens = x.flatten(2).transpose(1, 2) if channels_first else x.flatten(1, 2)
            return tokens, None
        return (x if self.pooling == "cls" else x[:, self.prefix :]), None

    def layer_groups(self) -> list[list[nn.Module]]:
        """Stem, then blocks or stages: what `freeze: n` counts."""
        children = dict(self.model.named_children())
        for name in ("blocks", "stages", "layers", "features"):
            if isinstance(children.get(name), nn.Sequential | nn.ModuleList):
                stem = [m for n, m in children.items() if n in ("patch_embed", "stem", "conv_stem")]
                return [stem, *[[part] for part in children[name]]]
        return [[module] for module in children.values()]


def _known(name: str) -> Any:
    if not timm.is_model(name.split(".")[0]):
        near = timm.list_models(f"*{name.split('.')[0].split('_')[0]}*")[:5]
        raise ValueError(f"timm has no model {name!r}; similar: {', '.join(near) or 'none'}")
    found = timm.get_pretrained_cfg(name)
    if found is None:  # a model without published weights
        found = timm.models.PretrainedCfg(
            input_size=(3, 224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
        )
    return found
