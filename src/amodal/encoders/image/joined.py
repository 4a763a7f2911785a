"""Several image encoders that see the same pixels, as one encoder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, zip_longest

import torch
from torch import Tensor, nn

from amodal.encoders.config import EncoderConfig, LayerGroups, PoolingName
from amodal.encoders.image.timm import TimmEncoder


class JoinedImageEncoder(nn.Module):
    """The features of several networks, concatenated at each place of the image.

    Networks that were trained apart make different errors, and a projection head weighs the
    features of all of them.

    Args:
        members: networks with the same preprocessing and equal grids of features.
        config: of the whole.

    Examples:
        >>> import torch
        >>> from amodal.encoders import PackagedImageConfig
        >>> names = ("efficientnet-lite0", "efficientnet-lite1")
        >>> encoder = PackagedImageConfig(name=names, size=64).build(pretrained=False)
        >>> encoder(torch.zeros(1, 3, 64, 64))[0].shape
        torch.Size([1, 4, 2560])
    """

    def __init__(self, members: Sequence[TimmEncoder], config: EncoderConfig) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.config = config
        self.width = sum(member.width for member in members)
        self.pooling: PoolingName = members[0].pooling

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, None]:
        """(B, 3, S, S) → tokens (B, N, D), D the sum over the members."""
        return torch.cat([member(pixel_values)[0] for member in self.members], dim=-1), None

    def layer_groups(self) -> LayerGroups:
        """The stems of all members, then their first stages, and so on."""
        groups = (member.layer_groups() for member in self.members)  # type: ignore[operator]
        return [list(chain.from_iterable(same)) for same in zip_longest(*groups, fillvalue=())]
