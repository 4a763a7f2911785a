"""Batch normalization of frozen networks, folded into the convolutions before it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

TOLERANCE = 1e-3  # of a feature, as a part of the largest one; rounding stays below 1e-5


@torch.inference_mode()
def folded(encoder: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A copy that has the same features in less time.

    In evaluation mode batch normalization is an affine map, and so can be a part of the
    convolution whose output it takes. An EfficientNet takes two thirds of the time on a CPU. What
    follows a convolution is read off the order of the layers in each block; where features of the
    copy differ, a network has another order of computation, and the encoder itself comes back.

    Args:
        encoder: in evaluation mode; (**tensors) → (B, N, D), and a mask or None.
        tensors: of some values.

    Examples:
        >>> import torch
        >>> from amodal.encoders import SmallCNNConfig
        >>> from amodal.encoders.batch_norm_folding import folded
        >>> encoder = SmallCNNConfig(size=32).build().eval()
        >>> pixels = {"pixel_values": torch.randn(2, 3, 32, 32)}
        >>> quicker = folded(encoder, pixels)
        >>> torch.allclose(encoder(**pixels)[0], quicker(**pixels)[0], atol=1e-4)
        True
    """
    found = copy.deepcopy(encoder).eval()
    if not _fold(found):
        return encoder
    few: dict[str, Any] = {name: tensor[:2] for name, tensor in tensors.items()}
    expected = encoder(**few)[0]
    error = (found(**few)[0] - expected).abs().max()
    return found if bool(error <= TOLERANCE * expected.abs().max()) else encoder


def _fold(module: nn.Module) -> int:
    """Fold in place; how many normalizations there were."""
    count = 0
    for block in list(module.modules()):
        for (before, convolution), (name, norm) in pairwise(list(block.named_children())):
            if not isinstance(convolution, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
                continue
            if convolution.out_channels == norm.num_features and norm.running_var is not None:
                setattr(block, before, fuse_conv_bn_eval(convolution, norm))
                activation = getattr(norm, "act", None)  # timm's layers have one of their own
                setattr(block, name, activation if activation is not None else nn.Identity())
                count += 1
    return count
