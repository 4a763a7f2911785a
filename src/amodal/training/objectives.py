"""The weighted sum of objectives that a recipe names, over the embeddings of one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Annotated, Any, Union

import torch
from pydantic import Field
from torch import Tensor, nn

from amodal.data.record import DataError
from amodal.losses.adversarial import AdversarialConfig
from amodal.losses.config import ContrastiveConfig
from amodal.losses.cycle import CycleConfig
from amodal.losses.decoupled import DecoupledConfig
from amodal.losses.deep_cca import DeepCCAConfig
from amodal.losses.distillation import DistillationConfig
from amodal.losses.info_nce import InfoNCEConfig
from amodal.losses.matryoshka import MatryoshkaConfig
from amodal.losses.moments import CMDConfig, CORALConfig, MMDConfig
from amodal.losses.nt_xent import NTXentConfig
from amodal.losses.sigmoid import SigmoidConfig
from amodal.losses.triplet import TripletConfig
from amodal.models.joint_embedding import Embeddings
from amodal.plugins import load_plugins
from amodal.training.errors import TrainingError
from amodal.training.pairing import (
    EmbeddedRows,
    Pairing,
    PairLosses,
    TeacherPairs,
    by_label,
    candidate_pairs,
    gathered,
    joint_batch,
    keyed_pairs,
    matched_rows,
    pairs,
    per_pair,
    unpaired_rows,
    views_of_each,
)
from amodal.training.teacher import TeacherEmbeddings

IDLE_BATCHES = 100  # without anything to compare, after which a run ends
GROUP = "amodal.losses"  # of entry points: NAME = "package.module:ConfigClass"
# Every objective that a recipe can name; a new loss is one more entry here, and one in
# `PAIRING_OF` where it does not compare two inputs row by row.
BUILT_IN: tuple[type[Any], ...] = (
    AdversarialConfig,
    CMDConfig,
    CORALConfig,
    CycleConfig,
    DecoupledConfig,
    DeepCCAConfig,
    DistillationConfig,
    InfoNCEConfig,
    MatryoshkaConfig,
    MMDConfig,
    NTXentConfig,
    SigmoidConfig,
    TripletConfig,
)
if TYPE_CHECKING:  # the union is made of tuples, which a type checker cannot read
    ObjectiveConfig = Any
else:
    ObjectiveConfig = Annotated[
        Union[(*BUILT_IN, *load_plugins(GROUP))],
        Field(discriminator="kind"),
    ]


PAIRINGS: dict[str, Pairing] = {
    "pairs": pairs,
    "keyed_pairs": keyed_pairs,
    "candidate_pairs": candidate_pairs,
    "views_of_each": views_of_each,
    "joint_batch": joint_batch,
    "matched_rows": matched_rows,
    "unpaired_rows": unpaired_rows,
}
# Objectives that do not compare two inputs row by row; one of another package has `pairing`.
PAIRING_OF: dict[type, str] = {
    AdversarialConfig: "unpaired_rows",
    CMDConfig: "unpaired_rows",
    CORALConfig: "unpaired_rows",
    MMDConfig: "unpaired_rows",
    CycleConfig: "keyed_pairs",
    DeepCCAConfig: "matched_rows",
    InfoNCEConfig: "candidate_pairs",
}


class Objectives(nn.Module):
    """Applies each loss to its pairing: pairs of inputs, views, or unpaired rows.

    Args:
        configs: the objectives of the recipe.
        dim: E, the width of the embeddings.
        pairs: inputs that are trained on each other; None: all of them.
        initial_log_scale: inverse temperature of a pretrained dual encoder, to start from.

    Raises:
        DataError: a teacher's embeddings cannot be used.
        ValueError: two objectives want momentum encoders of different decay.

    Examples:
        >>> import torch
        >>> from amodal.losses import InfoNCEConfig, SigmoidConfig
        >>> from amodal.models.joint_embedding import Embeddings
        >>> from amodal.projection import l2_normalize
        >>> from amodal.training import Objectives
        >>> objectives = Objectives([InfoNCEConfig(), SigmoidConfig(weight=0.5)], dim=8)
        >>> items = torch.arange(4)
        >>> z, w = l2_normalize(torch.randn(4, 8)), l2_normalize(torch.randn(4, 8))
        >>> total, values = objectives(
        ...     {"image": Embeddings(z, items, None), "text": Embeddings(w, items, None)}
        ... )
        >>> list(values), torch.allclose(total, values["info_nce"] + 0.5 * values["sigmoid_1"])
        (['info_nce', 'sigmoid_1'], True)
    """

    def __init__(
        self,
        configs: Sequence[ObjectiveConfig],
        *,
        dim: int,
        pairs: Sequence[tuple[str, str]] | None = None,
        initial_log_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.pairs = pairs
        self.weights = [config.weight for config in configs]
        by_pair = [getattr(config, "per_pair", False) for config in configs]
        self.pairings = [
            per_pair(_pairing(config, dim)) if separate else _pairing(config, dim)
            for config, separate in zip(configs, by_pair, strict=True)
        ]
        self.by_label = [
            isinstance(config, ContrastiveConfig) and config.positives == "label"
            for config in configs
        ]
        self.momentum = _momentum(configs)
        self.batches = 0  # seen so far by this process
        self.compared: set[str] = set()  # objectives that found rows to compare in some batch
        self.last_rows: list[Tensor] = []
        self.losses = nn.ModuleList(
            PairLosses(partial(config.build, dim), _named(pairs)) if separate else config.build(dim)
            for config, separate in zip(configs, by_pair, strict=True)
        )
        self.names = objective_names(configs)
        if initial_log_scale is not None:
            for _, scale in self._scales():
                scale.data.fill_(initial_log_scale)

    def forward(
        self, embedded: Mapping[str, Embeddings], momentum: Mapping[str, Embeddings] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total, and each objective's unweighted value by name.

        Args:
            embedded: modality -> rows of this process.
            momentum: the same rows as the momentum encoder embeds them, where `momentum` is set.
        """
        rows = EmbeddedRows(
            {
                name: gathered(own, momentum[name] if momentum else None)
                for name, own in embedded.items()
            },
            self.pairs,
        )
        self.last_rows = [one.z for one in rows.rows.values()]
        values: dict[str, Tensor] = {}
        for name, loss, pairing, labelled in zip(
            self.names, self.losses, self.pairings, self.by_label, strict=True
        ):
            terms = pairing(loss, by_label(rows) if labelled else rows)
            values[name] = torch.stack(terms).mean() if terms else _nothing(loss, rows)
            if terms:
                self.compared.add(name)
        self.batches += 1
        if self.batches == IDLE_BATCHES and not self.compared:
            raise TrainingError(
                f"{', '.join(self.names)} found nothing to compare in {IDLE_BATCHES} batches, so "
                f"nothing is learned: no item has values of {self._shown_pairs(rows)} that they use"
            )
        total = torch.stack(
            [w * v for w, v in zip(self.weights, values.values(), strict=True)]
        ).sum()
        return total, values

    def idle(self) -> list[str]:
        """Objectives that found nothing to compare in any batch; none before the first batch."""
        return [name for name in self.names if self.batches and name not in self.compared]

    def _shown_pairs(self, rows: EmbeddedRows) -> str:
        pairs = self.pairs if self.pairs is not None else list(combinations(rows.rows, 2))
        return " or ".join(f"both {a} and {b}" for a, b in pairs) or "two inputs"

    def gradient_norms(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """How hard each weighted objective pulls at the embeddings of all processes.

        Args:
            values: what the last `forward` returned.

        Returns:
            name -> L2 norm of the gradient with respect to all rows.
        """
        z = [rows for rows in self.last_rows if rows.requires_grad]
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

    def weights_by_name(self) -> dict[str, nn.Parameter]:
        """The weights of every objective, as NAME.PARAMETER."""
        return {
            f"{name}.{parameter}": weights
            for name, loss in zip(self.names, self.losses, strict=True)
            for parameter, weights in loss.named_parameters()
        }

    def metrics(self) -> dict[str, float]:
        """Further metrics of the last batch, as NAME/METRIC."""
        found: dict[str, float] = {}
        for name, loss, pairing in zip(self.names, self.losses, self.pairings, strict=True):
            for part in (loss, pairing):
                metrics = getattr(part, "metrics", None)
                if metrics is not None:
                    found |= {f"{name}/{metric}": value for metric, value in metrics().items()}
        return found

    def _scales(self) -> list[tuple[str, nn.Parameter]]:
        """Name and log inverse temperature of every objective that has one."""
        found = []
        for name, loss in zip(self.names, self.losses, strict=True):
            parts = {name: loss}
            if isinstance(loss, PairLosses):
                parts = {f"{name}/{pair}": part for pair, part in loss.of_pair.items()}
            for part_name, part in parts.items():
                scale = getattr(part, "log_scale", None)
                if isinstance(scale, nn.Parameter):
                    found.append((part_name, scale))
        return found


def _named(pairs: Sequence[tuple[str, str]] | None) -> Sequence[tuple[str, str]]:
    if pairs is None:
        raise ValueError("per_pair: a loss of its own for every pair needs the pairs by name")
    return pairs


def objective_names(configs: Sequence[Any]) -> list[str]:
    """The name of each objective in logs; those after the first carry their place."""
    return [f"{config.kind}_{i}" if i else config.kind for i, config in enumerate(configs)]


def compares_inputs(config: Any) -> bool:
    """Whether an objective compares rows of different inputs, so that a model needs two."""
    return isinstance(config, DistillationConfig) or _pairing_name(config) != "views_of_each"


def _pairing_name(config: Any) -> str:
    if isinstance(config, NTXentConfig):
        return "views_of_each" if config.mode == "intra_modal" else "joint_batch"
    return str(PAIRING_OF.get(type(config), getattr(config, "pairing", "pairs")))


def _pairing(config: Any, dim: int) -> Pairing:
    """The pairing of an objective."""
    if isinstance(config, DistillationConfig):
        teacher = TeacherEmbeddings(config.teacher)
        if config.form == "feature" and teacher.dim != dim:
            raise DataError(
                f"{config.teacher}: embeddings of {teacher.dim} dimensions cannot be copied by a "
                f"student of {dim}; set model.projection.dim: {teacher.dim}, or form: similarity"
            )
        return TeacherPairs(teacher)
    return PAIRINGS[_pairing_name(config)]


def _momentum(configs: Sequence[ObjectiveConfig]) -> float | None:
    """Decay of the momentum encoder that an objective requires, or None."""
    wanted = {c.momentum for c in configs if isinstance(c, InfoNCEConfig)} - {None}
    if len(wanted) > 1:
        raise ValueError(f"conflicting momentum values: {sorted(wanted, key=str)}")
    return next(iter(wanted), None)


def _nothing(loss: nn.Module, embedded: EmbeddedRows) -> Tensor:
    """Zero, with a gradient of zero for whatever could have had one."""
    parts = [one.z.sum() for one in embedded.rows.values()] + [p.sum() for p in loss.parameters()]
    return torch.stack(parts).sum() * 0.0
