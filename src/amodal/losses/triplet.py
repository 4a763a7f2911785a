"""Triplet loss with hard negatives: positives score higher than negatives by a margin."""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from amodal.losses.config import ContrastiveConfig

Mining = Literal["all", "semi_hard", "hardest"]
SPREAD = 0.01  # below it, rows of a modality count as one point
PATIENCE = 50  # steps in a row that make a collapse


def triplet_loss(
    left: Tensor,
    right: Tensor,
    positives: Tensor | None = None,
    *,
    margin: float = 0.2,
    mining: Mining = "hardest",
) -> Tensor:
    """Mean of `one_way_triplet` from left to right and from right to left.

    The paper sums both directions: its value is twice this one, times the number of rows.

    Args:
        left: (N, E) unit-norm embeddings of one modality.
        right: (M, E) unit-norm embeddings of the other.
        positives: (N, M) bool, True where the rows belong together; None: N = M and row i
            belongs to row i.
        margin: minimum lead of a positive over a negative, in cosine.
        mining: see `one_way_triplet`.

    Returns:
        () loss in float32 or wider, in units of cosine.

    Raises:
        ValueError: the shapes do not fit together.

    References:
        Faghri et al. 2017, arXiv:1707.05612, eq. 4 ("all"), eq. 6 ("hardest").
        Schroff et al. 2015, arXiv:1503.03832, section 3.2 ("semi_hard").

    Examples:
        >>> import torch
        >>> from amodal.losses import triplet_loss
        >>> z = torch.eye(4)
        >>> triplet_loss(z, z, margin=0.2).item()  # every positive leads by 1
        0.0
        >>> round(triplet_loss(z, z[[1, 0, 2, 3]], margin=0.2).item(), 3)  # two pairs exchanged
        0.6
    """
    n, m = len(left), len(right)
    if positives is None:
        if n != m:
            raise ValueError(
                f"paired embeddings differ: {tuple(left.shape)} vs {tuple(right.shape)}"
            )
        positives = torch.eye(n, dtype=torch.bool, device=left.device)
    if positives.shape != (n, m):
        raise ValueError(f"positives must be {(n, m)}, got {tuple(positives.shape)}")
    forth = one_way_triplet(left, right, positives, margin=margin, mining=mining)
    back = one_way_triplet(right, left, positives.T, margin=margin, mining=mining)
    return (forth + back) / 2


def one_way_triplet(
    query: Tensor, candidates: Tensor, positives: Tensor, *, margin: float, mining: Mining
) -> Tensor:
    """Mean over positive pairs (i, p) of the hinge [margin - s_ip + s_in]+ over negatives n.

    "all" sums the hinge over every negative of row i. "hardest" takes the most similar one.
    "semi_hard" takes the most similar one that is less similar than the positive, or where there is
    none, the least similar one: early in training the hardest negatives of large batches often
    make the embeddings collapse.

    Pairs whose row has no negative are left out; if none remains, the loss is exactly 0.
    """
    with torch.autocast(query.device.type, enabled=False):
        dtype = torch.promote_types(
            torch.promote_types(query.dtype, candidates.dtype), torch.float32
        )
        s = query.to(dtype) @ candidates.to(dtype).T  # (N, M)
        row, column = (positives & ~positives.all(1, keepdim=True)).nonzero().unbind(1)
        if len(row) == 0:
            return s.sum() * 0.0
        lead = s[row, column]  # (P,)
        rivals, related = s[row], positives[row]  # (P, M)
        if mining == "all":
            hinge = (margin - lead[:, None] + rivals).clamp_min(0).masked_fill(related, 0.0)
            return hinge.sum(1).mean()
        with torch.no_grad():
            least, most = torch.finfo(dtype).min, torch.finfo(dtype).max
            chosen = rivals.masked_fill(related, least).argmax(1)
            if mining == "semi_hard":
                behind = ~related & (rivals < lead[:, None])
                closest = rivals.masked_fill(~behind, least).argmax(1)
                easiest = rivals.masked_fill(related, most).argmin(1)
                chosen = torch.where(behind.any(1), closest, easiest)
        negative = rivals.gather(1, chosen[:, None])[:, 0]
        return (margin - lead + negative).clamp_min(0).mean()


def spread(z: Tensor) -> Tensor:
    """1 - |mean row|^2 of unit-norm rows: 0 where all are one point, 1 where they cancel out."""
    with torch.autocast(z.device.type, enabled=False):
        return 1 - z.float().mean(0).square().sum()


class TripletConfig(ContrastiveConfig):
    """`triplet_loss`, with harder negatives as training goes on where `mining` is "scheduled"."""

    kind: Literal["triplet"] = "triplet"
    # by which a positive is to be nearer than a negative, as cosine
    margin: float = Field(0.2, gt=0)
    # which negatives count; scheduled: semi-hard, then hardest
    mining: Literal["all", "semi_hard", "hardest", "scheduled"] = "scheduled"
    semi_hard_steps: int = Field(500, ge=0)  # scheduled: before the hardest negatives

    def build(self, dim: int | None = None) -> Triplet:
        return Triplet(margin=self.margin, mining=self.mining, semi_hard_steps=self.semi_hard_steps)


class Triplet(nn.Module):
    """`triplet_loss` with a schedule of mining, and a warning where the embeddings have collapsed.

    Collapse means that both modalities have become one point: every similarity is 1, every hinge
    equals the margin, and the gradient vanishes.

    Args:
        margin: in cosine.
        mining: of `one_way_triplet`, or "scheduled".
        semi_hard_steps: training steps of semi-hard mining before the hardest negatives.

    Examples:
        >>> import torch
        >>> from torch.nn.functional import normalize
        >>> from amodal.losses import TripletConfig
        >>> loss = TripletConfig(margin=0.2, mining="scheduled", semi_hard_steps=100).build()
        >>> image, text = (normalize(torch.randn(8, 16), dim=1) for _ in range(2))
        >>> loss(image, text).shape
        torch.Size([])
    """

    step: Tensor

    def __init__(
        self,
        *,
        margin: float,
        mining: Literal["all", "semi_hard", "hardest", "scheduled"],
        semi_hard_steps: int = 0,
    ) -> None:
        super().__init__()
        self.margin, self.mining, self.semi_hard_steps = margin, mining, semi_hard_steps
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.collapsed_steps = 0  # training steps in a row in which all rows were one point

    @property
    def collapsed(self) -> bool:
        """Whether all rows have been one point for the last 50 training steps."""
        return self.collapsed_steps >= PATIENCE

    def forward(self, left: Tensor, right: Tensor, positives: Tensor | None = None) -> Tensor:
        """Loss of (N, E) and (M, E) unit-norm embeddings; see `triplet_loss`."""
        loss = triplet_loss(left, right, positives, margin=self.margin, mining=self._now())
        if self.training:
            self.step += 1
            self._watch(left, right)
        return loss

    def _now(self) -> Mining:
        if self.mining != "scheduled":
            return self.mining
        return "semi_hard" if int(self.step) < self.semi_hard_steps else "hardest"

    @torch.no_grad()
    def _watch(self, left: Tensor, right: Tensor) -> None:
        # Where each side is one point, all similarities are equal and every hinge is the margin.
        flat = len(left) > 1 and max(float(spread(left)), float(spread(right))) < SPREAD
        before = self.collapsed
        self.collapsed_steps = self.collapsed_steps + 1 if flat else 0
        if self.collapsed and not before:
            warnings.warn(
                f"triplet: the embeddings have collapsed: for {PATIENCE} steps all rows have been "
                f"one point (spread below {SPREAD}) and the loss equals its margin. Mine scheduled "
                "or semi-hard negatives, lower the learning rate, or use info_nce",
                stacklevel=3,
            )
