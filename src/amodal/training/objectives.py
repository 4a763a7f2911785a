"""The weighted sum of objectives that a recipe names, over the embeddings of one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from amodal.distributed import gather, gather_with_gradient, world_size
from amodal.losses.adversarial import AdversarialConfig
from amodal.losses.decoupled import DecoupledConfig
from amodal.losses.deep_cca import DeepCCAConfig
from amodal.losses.info_nce import InfoNCEConfig
from amodal.losses.matryoshka import MatryoshkaConfig
from amodal.losses.moments import CMDConfig, CORALConfig, MMDConfig
from amodal.losses.nt_xent import NTXentConfig
from amodal.losses.positives import positives_from_keys
from amodal.losses.sigmoid import SigmoidConfig
from amodal.losses.triplet import TripletConfig
from amodal.models.joint_embedding import Embeddings

# Every objective that a recipe can name; a new loss is one more entry here, and one in `_applied`
# where it does not compare two modalities row by row.
ObjectiveConfig = Annotated[
    AdversarialConfig
    | CMDConfig
    | CORALConfig
    | DecoupledConfig
    | DeepCCAConfig
    | InfoNCEConfig
    | MatryoshkaConfig
    | MMDConfig
    | NTXentConfig
    | SigmoidConfig
    | TripletConfig,
    Field(discriminator="kind"),
]
Rows = Mapping[str, Embeddings]  # modality -> its rows, of all processes
Applied = Callable[[Any, Rows], list[Tensor]]  # a loss and the rows to its terms, whose mean counts


class Objectives(nn.Module):
    """Applies each loss to the pairs of modalities, the views or the clouds it is meant for.

    Args:
        configs: the objectives of the recipe.
        dim: E, the width of the embeddings.
        initial_log_scale: inverse temperature of a pretrained dual encoder, to start from.
    """

    def __init__(
        self,
        configs: Sequence[ObjectiveConfig],
        *,
        dim: int,
        initial_log_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.weights = [config.weight for config in configs]
        self.applied = [_applied(config) for config in configs]
        self.losses = nn.ModuleList(config.build(dim) for config in configs)
        self.names = [
            f"{config.kind}_{i}" if i else config.kind for i, config in enumerate(configs)
        ]
        if initial_log_scale is not None:
            for _, scale in self._scales():
                scale.data.fill_(initial_log_scale)

    def forward(self, embedded: dict[str, Embeddings]) -> tuple[Tensor, dict[str, Tensor]]:
        """The total, and each objective's unweighted value by name."""
        everywhere = {m: _gather(rows) for m, rows in embedded.items()}
        values: dict[str, Tensor] = {}
        for name, loss, apply in zip(self.names, self.losses, self.applied, strict=True):
            terms = apply(loss, everywhere)
            values[name] = torch.stack(terms).mean() if terms else _nothing(loss, everywhere)
        total = torch.stack(
            [w * v for w, v in zip(self.weights, values.values(), strict=True)]
        ).sum()
        return total, values

    def gradient_norms(
        self, embedded: dict[str, Embeddings], values: Mapping[str, Tensor]
    ) -> dict[str, float]:
        """How hard each weighted objective pulls at the embeddings of this process.

        Args:
            embedded: what `forward` was given.
            values: what `forward` returned.

        Returns:
            name -> L2 norm of the gradient with respect to all rows.
        """
        z = [rows.z for rows in embedded.values() if rows.z.requires_grad]
        norms: dict[str, float] = {}
        for weight, (name, value) in zip(self.weights, values.items(), strict=True):
            found = torch.autograd.grad(value, z, retain_graph=True, allow_unused=True)
            squares = [g.square().sum() for g in found if g is not None]
            norms[name] = weight * float(torch.stack(squares).sum().sqrt()) if squares else 0.0
        return norms

    @torch.no_grad()
    def constrain_(self) -> None:
        """Put every learned temperature back into its bounds; call after each step."""
        for loss in self.losses:
            constrain = getattr(loss, "constrain_", None)
            if constrain is not None:
                constrain()

    def temperatures(self) -> dict[str, float]:
        """Current temperature of every objective that has one."""
        return {f"temperature/{n}": float((-s.detach()).exp()) for n, s in self._scales()}

    def figures(self) -> dict[str, float]:
        """What else an objective has to tell of its last batch, as NAME/FIGURE."""
        found: dict[str, float] = {}
        for name, loss in zip(self.names, self.losses, strict=True):
            tell = getattr(loss, "figures", None)
            if tell is not None:
                found |= {f"{name}/{figure}": value for figure, value in tell().items()}
        return found

    def _scales(self) -> list[tuple[str, nn.Parameter]]:
        """Name and log inverse temperature of every objective that has one."""
        found = []
        for name, loss in zip(self.names, self.losses, strict=True):
            scale = getattr(loss, "log_scale", None)
            if isinstance(scale, nn.Parameter):
                found.append((name, scale))
        return found


def _applied(config: ObjectiveConfig) -> Applied:
    if isinstance(config, NTXentConfig):
        return _views_of_each if config.mode == "in_modality" else _bags_of_two
    if isinstance(config, DeepCCAConfig):
        return _matched_rows
    if isinstance(config, AdversarialConfig | CMDConfig | CORALConfig | MMDConfig):
        return _clouds
    if isinstance(config, InfoNCEConfig):
        return _keyed_pairs
    return _pairs


def _pairs(loss: Any, rows: Rows) -> list[Tensor]:
    """Every two modalities, with the mask of the rows that belong together."""
    return [
        loss(
            left.z,
            right.z,
            positives_from_keys(left.item, right.item, left.content, right.content),
        )
        for left, right in combinations(rows.values(), 2)
    ]


def _keyed_pairs(loss: Any, rows: Rows) -> list[Tensor]:
    """Every two modalities with their keys, which a queue keeps for later batches."""
    return [
        loss(
            left.z,
            right.z,
            left_item=left.item,
            right_item=right.item,
            left_content=left.content,
            right_content=right.content,
        )
        for left, right in combinations(rows.values(), 2)
    ]


def _views_of_each(loss: Any, rows: Rows) -> list[Tensor]:
    """Each modality in which some item has several rows."""
    return [
        loss(one.z, one.item) for one in rows.values() if len(torch.unique(one.item)) < len(one.z)
    ]


def _bags_of_two(loss: Any, rows: Rows) -> list[Tensor]:
    """The rows of every two modalities in one bag."""
    return [
        loss(torch.cat([left.z, right.z]), torch.cat([left.item, right.item]))
        for left, right in combinations(rows.values(), 2)
    ]


def _matched_rows(loss: Any, rows: Rows) -> list[Tensor]:
    """One row per item and modality, of the items that every modality has."""
    places = [_first_rows(one.item) for one in rows.values()]
    shared = sorted(set.intersection(*(set(found) for found in places))) if places else []
    if len(rows) < 2 or len(shared) < 2:
        return []
    views = [
        one.z[torch.tensor([found[item] for item in shared], device=one.z.device)]
        for one, found in zip(rows.values(), places, strict=True)
    ]
    return [loss(views)]


def _clouds(loss: Any, rows: Rows) -> list[Tensor]:
    """All rows of every modality; which of them belong together does not matter."""
    return [loss([one.z for one in rows.values()])] if len(rows) > 1 else []


def _first_rows(item: Tensor) -> dict[int, int]:
    """Item key -> the place of its first row."""
    found: dict[int, int] = {}
    for place, key in enumerate(item.tolist()):
        found.setdefault(key, place)
    return found


def _nothing(loss: nn.Module, rows: Rows) -> Tensor:
    """Zero, with a gradient of zero for whatever could have had one."""
    parts = [one.z.sum() for one in rows.values()] + [p.sum() for p in loss.parameters()]
    return torch.stack(parts).sum() * 0.0


def _gather(rows: Embeddings) -> Embeddings:
    if world_size() == 1:
        return rows
    return Embeddings(
        gather_with_gradient(rows.z),
        gather(rows.item),
        gather(rows.content) if rows.content is not None else None,
    )
