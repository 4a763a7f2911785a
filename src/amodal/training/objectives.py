"""The weighted sum of objectives that a recipe names, over the embeddings of one batch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import cast

import torch
from torch import Tensor, nn

from amodal.distributed import gather, gather_with_gradient, world_size
from amodal.losses.info_nce import InfoNCE, InfoNCEConfig
from amodal.losses.nt_xent import NTXent, NTXentConfig
from amodal.models.joint_embedding import Embeddings


class Objectives(nn.Module):
    """Applies each loss to the pairs of modalities, or the views, that it is meant for.

    Args:
        configs: the objectives of the recipe.
        dim: E, the width of the embeddings.
        initial_log_scale: inverse temperature of a pretrained dual encoder, to start from.
    """

    def __init__(
        self,
        configs: Sequence[InfoNCEConfig | NTXentConfig],
        *,
        dim: int,
        initial_log_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.weights = [config.weight for config in configs]
        self.modes = [getattr(config, "mode", None) for config in configs]
        self.losses = nn.ModuleList(config.build(dim) for config in configs)
        self.names = [
            f"{config.kind}_{i}" if i else config.kind for i, config in enumerate(configs)
        ]
        if initial_log_scale is not None:
            for loss in self.losses:
                cast(InfoNCE | NTXent, loss).log_scale.data.fill_(initial_log_scale)

    def forward(self, embedded: dict[str, Embeddings]) -> tuple[Tensor, dict[str, Tensor]]:
        """The total in nats, and each objective's unweighted value by name."""
        everywhere = {m: _gather(rows) for m, rows in embedded.items()}
        values: dict[str, Tensor] = {}
        for name, loss, mode in zip(self.names, self.losses, self.modes, strict=True):
            if isinstance(loss, InfoNCE):
                terms = [
                    _paired(loss, everywhere[a], everywhere[b])
                    for a, b in combinations(everywhere, 2)
                ]
            elif mode == "in_modality":
                terms = [
                    loss(rows.z, rows.item)
                    for rows in everywhere.values()
                    if len(torch.unique(rows.item)) < len(rows.item)
                ]
            else:
                terms = [
                    loss(
                        torch.cat([everywhere[a].z, everywhere[b].z]),
                        torch.cat([everywhere[a].item, everywhere[b].item]),
                    )
                    for a, b in combinations(everywhere, 2)
                ]
            if not terms:
                terms = [cast(NTXent, loss).log_scale * 0.0]
            values[name] = torch.stack(terms).mean()
        total = torch.stack(
            [w * v for w, v in zip(self.weights, values.values(), strict=True)]
        ).sum()
        return total, values

    @torch.no_grad()
    def constrain_(self) -> None:
        """Put every learned temperature back into its bounds; call after each step."""
        for loss in self.losses:
            cast(InfoNCE | NTXent, loss).constrain_()

    def temperatures(self) -> dict[str, float]:
        """Current temperature of every objective that has one."""
        return {
            f"temperature/{name}": float((-cast(NTXent, loss).log_scale.detach()).exp())
            for name, loss in zip(self.names, self.losses, strict=True)
        }


def _paired(loss: InfoNCE, left: Embeddings, right: Embeddings) -> Tensor:
    return loss(
        left.z,
        right.z,
        left_item=left.item,
        right_item=right.item,
        left_content=left.content,
        right_content=right.content,
    )


def _gather(rows: Embeddings) -> Embeddings:
    if world_size() == 1:
        return rows
    return Embeddings(
        gather_with_gradient(rows.z),
        gather(rows.item),
        gather(rows.content) if rows.content is not None else None,
    )
