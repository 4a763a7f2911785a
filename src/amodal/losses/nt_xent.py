"""NT-Xent: each row against all other rows of the batch, with those of its group as positives."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn

from amodal.losses.config import TemperatureConfig
from amodal.losses.info_nce import MultiPositive, one_way_info_nce


def nt_xent_loss(
    z: Tensor,
    group: Tensor,
    log_scale: Tensor,
    *,
    multi_positive: MultiPositive = "exclusive",
) -> Tensor:
    """Mean cross-entropy of the other rows of a row's group among all other rows.

    With two rows per group this is SimCLR's loss of 2N views, whose chance level is
    log(2N - 1); with more rows every pair of a group counts, see `one_way_info_nce`. A row that is
    alone in its group is a negative for the others and has no loss of its own.

    Uses:
        Two views of one modality: z = cat(view 1, view 2), group = cat(item, item).
        Two modalities: z = cat(image, text), group = cat(image_item, text_item). Unlike
        `info_nce`, images are then also negatives of images and texts of texts.

    Args:
        z: (R, E) unit-norm embeddings.
        group: (R,) int64, rows with equal keys are positives of each other; or (R, R) bool, True
            where two rows are, which is symmetric.
        log_scale: () natural log of the inverse temperature.
        multi_positive: see `one_way_info_nce`.

    Returns:
        () loss in nats, float32 or wider.

    References:
        Chen et al. 2020, arXiv:2002.05709, eq. 1.
        Khosla et al. 2020, arXiv:2004.11362, eq. 2 (more than two views, "mean").

    Examples:
        >>> import torch
        >>> from amodal.losses import nt_xent_loss
        >>> view = torch.eye(4)
        >>> z, group = torch.cat([view, view]), torch.arange(4).repeat(2)  # two views of four items
        >>> round(nt_xent_loss(z, group, log_scale=torch.tensor(2.0)).item(), 4)
        0.0037
    """
    if group.shape not in ((len(z),), (len(z), len(z))):
        raise ValueError(
            f"{len(z)} rows need {len(z)} group keys or a mask, got {tuple(group.shape)}"
        )
    others = ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    together = group if group.ndim == 2 else group[:, None] == group[None, :]
    positives = together.bool() & others
    return one_way_info_nce(z, z, log_scale, positives, multi_positive=multi_positive, keep=others)


class NTXentConfig(TemperatureConfig):
    """`nt_xent_loss` with a learned temperature.

    `mode`: "intra_modal" contrasts the views of one modality at a time, "cross_modal" the rows
    of two modalities together.
    """

    kind: Literal["nt_xent"] = "nt_xent"
    # views of one input at a time, or two inputs together
    mode: Literal["intra_modal", "cross_modal"] = "intra_modal"
    # several positives of a row: each alone, or they compete
    multi_positive: MultiPositive = "exclusive"

    @model_validator(mode="after")
    def _pairs_of_inputs(self) -> NTXentConfig:
        if self.per_pair and self.mode == "intra_modal":
            raise ValueError("per_pair needs mode: cross_modal; views of one input make no pair")
        return self

    def build(self, dim: int | None = None) -> NTXent:
        return NTXent(
            temperature=self.temperature,
            min_temperature=self.min_temperature,
            multi_positive=self.multi_positive,
        )


class NTXent(nn.Module):
    """`nt_xent_loss` with a learned, bounded temperature.

    Examples:
        >>> import torch
        >>> from torch.nn.functional import normalize
        >>> from amodal.losses import NTXentConfig
        >>> loss = NTXentConfig(temperature=0.1).build()
        >>> z = normalize(torch.randn(8, 16), dim=1)
        >>> loss(z, group=torch.arange(4).repeat(2)).shape
        torch.Size([])
    """

    def __init__(
        self,
        *,
        temperature: float,
        min_temperature: float,
        multi_positive: MultiPositive = "exclusive",
    ) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.max_log_scale = -math.log(min_temperature)
        self.multi_positive: MultiPositive = multi_positive

    def forward(self, z: Tensor, group: Tensor) -> Tensor:
        """Loss of (R, E) unit-norm embeddings with group keys or a mask; see `nt_xent_loss`."""
        return nt_xent_loss(z, group, self.log_scale, multi_positive=self.multi_positive)

    @torch.no_grad()
    def constrain_(self) -> None:
        """Put the temperature back above its floor; call after each optimizer step."""
        self.log_scale.clamp_(max=self.max_log_scale)
