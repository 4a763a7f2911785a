# Written by docs/public_names.py from __init__.py.
from amodal.fusion.attention import CrossAttention as CrossAttention
from amodal.fusion.bottleneck import Bottleneck as Bottleneck
from amodal.fusion.bottleneck import BottleneckConfig as BottleneckConfig
from amodal.fusion.concat import Concat as Concat
from amodal.fusion.concat import ConcatConfig as ConcatConfig
from amodal.fusion.concat import ConcatTokens as ConcatTokens
from amodal.fusion.concat import ConcatTokensConfig as ConcatTokensConfig
from amodal.fusion.cross_attention import CoAttention as CoAttention
from amodal.fusion.cross_attention import CrossAttentionConfig as CrossAttentionConfig
from amodal.fusion.cross_attention import DirectionalCrossAttention as DirectionalCrossAttention
from amodal.fusion.gated import Gated as Gated
from amodal.fusion.gated import GatedConfig as GatedConfig
from amodal.fusion.gated import PrecisionGated as PrecisionGated
from amodal.fusion.low_rank import LowRank as LowRank
from amodal.fusion.low_rank import LowRankConfig as LowRankConfig
from amodal.fusion.low_rank import low_rank_product as low_rank_product
from amodal.fusion.specification import FusionCost as FusionCost
from amodal.fusion.specification import fusion_cost as fusion_cost
from amodal.fusion.tensor import TensorFusion as TensorFusion
from amodal.fusion.tensor import TensorFusionConfig as TensorFusionConfig
from amodal.fusion.tensor import outer_product as outer_product

__all__ = [
    "Bottleneck",
    "BottleneckConfig",
    "CoAttention",
    "Concat",
    "ConcatConfig",
    "ConcatTokens",
    "ConcatTokensConfig",
    "CrossAttention",
    "CrossAttentionConfig",
    "DirectionalCrossAttention",
    "FusionCost",
    "Gated",
    "GatedConfig",
    "LowRank",
    "LowRankConfig",
    "PrecisionGated",
    "TensorFusion",
    "TensorFusionConfig",
    "fusion_cost",
    "low_rank_product",
    "outer_product",
]
