"""Every fusion that a recipe can name; a new one is one more entry here."""

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
from amodal.fusion.tensor import TensorConfig

FusionConfig = Annotated[
    BottleneckConfig
    | ConcatConfig
    | ConcatTokensConfig
    | CrossAttentionConfig
    | GatedConfig
    | LowRankConfig
    | TensorConfig,
    Field(discriminator="kind"),
]


class Cost(NamedTuple):
    """Parameters of a fusion, and floating-point operations of one item forwards."""

    parameters: int
    flops: int


def cost(config: Any, widths: Widths, *, tokens: int = 1) -> Cost:
    """What a fusion costs for modalities of these widths, each with so many tokens.

    A multiplication and an addition count as two operations; only matrix products are counted.
    """
    module = config.build(widths)
    shape = (1, tokens) if module.level == "tokens" else (1,)
    values = {m: torch.zeros(*shape, d) for m, d in widths.items()}
    masks = {m: torch.ones(*shape, dtype=torch.bool) for m in widths}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(values, masks)
    return Cost(sum(p.numel() for p in module.parameters()), counter.get_total_flops())
