"""Fusion: vectors or tokens of several modalities in, one representation out."""

from amodal.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "attention": "CrossAttention",
        "bottleneck": "Bottleneck BottleneckConfig",
        "concat": "Concat ConcatConfig ConcatTokens ConcatTokensConfig",
        "cross_attention": "CoAttention CrossAttentionConfig DirectionalCrossAttention",
        "gated": "Gated GatedConfig PrecisionGated",
        "low_rank": "LowRank LowRankConfig low_rank_product",
        "specification": "FusionCost fusion_cost",
        "tensor": "TensorFusionConfig TensorFusion outer_product",
    },
)
