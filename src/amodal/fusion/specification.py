"""Union of all fusion configurations, and the cost of a fusion."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field
from torch.utils.flop_counter import FlopCounterMode

from amodal.fusion.bottleneck import BottleneckConfig
from amodal.fusion.concat import ConcatConfig, ConcatTokensConfig
from amodal.fusion.config import Widths
from amodal.fusion.cross_attention import CrossAttentionConfig
from amodal.fusion.gated import GatedConfig
from amodal.fusion.low_rank import LowRankConfig
from amodal.fusion.tensor import TensorFusionConfig

FusionConfig = Annotated[
    BottleneckConfig
    | ConcatConfig
    | ConcatTokensConfig
    | CrossAttentionConfig
    | GatedConfig
    | LowRankConfig
    | TensorFusionConfig,
    Field(discriminator="kind"),
]


class FusionCost(NamedTuple):
    """Parameters of a fusion, and floating-point operations of the forward pass of one item."""

    parameters: int
    flops: int


def fusion_cost(config: Any, widths: Widths, *, tokens: int = 1) -> FusionCost:
    """Parameters and FLOPs of a fusion for modalities of these widths.

    A multiplication and an addition count as two operations; only matrix products are counted.

    Args:
        config: of any fusion.
        widths: modality -> D.
        tokens: of each modality.

    Examples:
        >>> from amodal.fusion import LowRankConfig, TensorFusionConfig, fusion_cost
        >>> widths = {"image": 64, "audio": 32}
        >>> fusion_cost(TensorFusionConfig(dim=128), widths)
        FusionCost(parameters=38688, flops=77056)
        >>> fusion_cost(LowRankConfig(dim=128), widths)
        FusionCost(parameters=50304, flops=98304)
    """
    module = config.build(widths)
    shape = (1, tokens) if module.level == "tokens" else (1,)
    values = {m: torch.zeros(*shape, d) for m, d in widths.items()}
    masks = {m: torch.ones(*shape, dtype=torch.bool) for m in widths}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(values, masks)
    return FusionCost(sum(p.numel() for p in module.parameters()), counter.get_total_flops())
