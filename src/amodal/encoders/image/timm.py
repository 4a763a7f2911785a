"""Any timm model as an image encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from amodal.encoders.config import EncoderConfig, LayerGroups, PoolingName
from amodal.encoders.fine_tuning import freeze_unused
from amodal.encoders.hub import NO_NETWORK
from amodal.encoders.image.preprocessing import ImagePreprocessor


class TimmConfig(EncoderConfig):
    """Which model, with which weights.

    Args:
        last_stages: the outputs of the last so many stages, averaged to the grid of the final
            feature map, are joined to it: features of several scales, as in the hypercolumns of
            Hariharan et al. 2015, arXiv:1411.5752. For frozen networks of feature maps.
    """

    type: Literal["image"] = "image"
    kind: Literal["timm"] = "timm"
    name: str  # of a model of timm
    weights: bool | str = True  # true: timm's own; false: random; or a .safetensors file
    size: int | None = Field(None, ge=16)  # pixels; None means what the model was made for
    last_stages: int = Field(0, ge=0)
    arguments: dict[str, Any] = Field(
        default_factory=dict
    )  # of the model's constructor, such as drop_path_rate

    @property
    def is_pretrained(self) -> bool:
        return self.weights is not False

    def build(self, pretrained: bool = True) -> TimmEncoder:
        """The encoder; `pretrained=False` touches neither network nor files.

        Raises:
            ValueError: timm has no such model, or its weights cannot be had.
        """
        return TimmEncoder(self, pretrained=pretrained)

    def preprocessor(self) -> ImagePreprocessor:
        from timm.data.config import resolve_data_config

        data = resolve_data_config({}, pretrained_cfg=_known(self.name).to_dict())
        return ImagePreprocessor(self.size or data["input_size"][1], data["mean"], data["std"])


class TimmEncoder(nn.Module):
    """The features of a timm model before its pooling, as tokens.

    Examples:
        >>> import torch
        >>> from amodal.encoders import TimmConfig
        >>> encoder = TimmConfig(name="resnet10t", weights=False, size=64).build()  # random weights
        >>> tokens, _ = encoder(torch.zeros(2, 3, 64, 64))
        >>> tokens.shape, encoder.pooling
        (torch.Size([2, 4, 512]), 'mean')
    """

    def __init__(self, config: TimmConfig, *, pretrained: bool) -> None:
        super().__init__()
        self.config: EncoderConfig = config
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
        self.last_stages = config.last_stages
        self.width = int(model.num_features) + sum(_stage_widths(model, config))
        self.channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        self.prefix = int(getattr(model, "num_prefix_tokens", 0))
        first = getattr(model, "global_pool", "") == "token"
        self.pooling: PoolingName = "cls" if first else "mean"
        side = config.preprocessor().size
        freeze_unused(self, lambda: self(torch.zeros(1, 3, side, side))[0])
        # Channels last is the layout in which CPU and GPU kernels are quickest.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @staticmethod
    def _create(config: TimmConfig, pretrained: bool, options: dict[str, Any]) -> Any:
        import timm

        options = {**config.arguments, **options}
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
                f"`weights: FILE.safetensors`, {NO_NETWORK}, or `weights: false` for random ones"
            ) from None

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, None]:
        """(B, 3, S, S) → tokens (B, N, D); prefix tokens only where they are pooled."""
        pixels = pixel_values.contiguous(memory_format=torch.channels_last)
        if self.last_stages:
            x, maps = self.model.forward_intermediates(pixels, indices=self.last_stages)
            x = torch.cat([x, *(adaptive_avg_pool2d(m, x.shape[-2:]) for m in maps)], dim=1)
            return x.flatten(2).transpose(1, 2), None
        x = self.model.forward_features(pixels)
        if x.ndim == 4:
            return (x.flatten(1, 2) if self.channels_last else x.flatten(2).transpose(1, 2)), None
        return (x if self.pooling == "cls" else x[:, self.prefix :]), None

    def layer_groups(self) -> LayerGroups:
        """Stem, then blocks or stages: what `freeze: n` counts."""
        from timm.models import group_parameters

        modules = dict(self.model.named_modules())
        groups = []
        # timm itself says which parameters are the stem and which belong to stage i.
        for names in group_parameters(self.model, self.model.group_matcher(coarse=True)).values():
            owners: dict[str, nn.Module | nn.Parameter] = {}
            for name in names:
                owner, _, leaf = name.rpartition(".")
                prefix = f"{owner}." if owner else ""
                if all(f"{prefix}{n}" in names for n, _ in modules[owner].named_parameters()):
                    owners[owner] = modules[owner]  # whole, so that BatchNorm can be frozen
                else:
                    owners[name] = getattr(modules[owner], leaf)
            groups.append(list(owners.values()))
        return groups


def _stage_widths(model: Any, config: TimmConfig) -> list[int]:
    """Channels of the last stages that are joined to the final feature map.

    Raises:
        ValueError: the model has fewer stages, or tokens instead of feature maps.
    """
    if not config.last_stages:
        return []
    widths = [stage["num_chs"] for stage in getattr(model, "feature_info", [])]
    tokens = getattr(model, "output_fmt", "NCHW") == "NHWC" or hasattr(model, "pos_embed")
    if tokens or len(widths) < config.last_stages:
        has = "tokens instead of feature maps" if tokens else f"{len(widths)} stages"
        raise ValueError(f"last_stages: {config.last_stages}; {config.name} has {has}")
    return widths[-config.last_stages :]


def _known(name: str) -> Any:
    import timm  # slow to import, and most models need none of it

    if not timm.is_model(name.split(".")[0]):
        near = timm.list_models(f"*{name.split('.')[0].split('_')[0]}*")[:5]
        raise ValueError(f"timm has no model {name!r}; similar: {', '.join(near) or 'none'}")
    found = timm.get_pretrained_cfg(name)
    if found is None:  # a model without published weights
        found = timm.models.PretrainedCfg(
            input_size=(3, 224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
        )
    return found
