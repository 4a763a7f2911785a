"""Pairings: the rows of a batch that an objective takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from amodal.data.record import DataError
from amodal.distributed import gather, gather_integers, gather_with_gradient, world_size
from amodal.losses.positives import positives_from_keys
from amodal.models.joint_embedding import Embeddings
from amodal.training.teacher import TeacherEmbeddings


class Rows(NamedTuple):
    """The rows of one modality, of all processes; see `Embeddings`.

    Args:
        momentum: (P, E) embeddings of the same rows by the momentum encoder, or None.
    """

    z: Tensor
    item: Tensor
    content: Tensor | None
    label: Tensor | None
    momentum: Tensor | None = None


@dataclass(frozen=True)
class EmbeddedRows:
    """The embedded rows of a batch, and which inputs are trained on each other.

    Args:
        rows: input -> its rows.
        pairs: pairs of inputs; None: all of them.
    """

    rows: Mapping[str, Rows]
    pairs: Sequence[tuple[str, str]] | None = None

    def named_pairs(self) -> list[tuple[str, str]]:
        """The pairs of which both inputs have rows in this batch."""
        there = {name for name, rows in self.rows.items() if len(rows.z)}
        pairs = combinations(self.rows, 2) if self.pairs is None else self.pairs
        return [(a, b) for a, b in pairs if a in there and b in there]

    def paired(self) -> list[tuple[Rows, Rows]]:
        """The rows of these pairs."""
        return [(self.rows[a], self.rows[b]) for a, b in self.named_pairs()]


# A loss and the rows of a batch to its terms, whose mean counts.
Pairing = Callable[[Any, EmbeddedRows], list[Tensor]]


def gathered(rows: Embeddings, momentum: Embeddings | None = None) -> Rows:
    """The rows of this process with those of all others; gradients reach `rows` alone."""
    if world_size() == 1:
        return Rows(*rows, momentum.z if momentum is not None else None)
    # A process without any rows, or without a label among them, must gather what the others do.
    table = gather_integers(
        [len(rows.z), int(rows.content is not None), int(rows.label is not None)]
    )
    keyed = all(has_content for size, has_content, _ in table if size)
    labelled = any(has_label for _, _, has_label in table)
    content = rows.content if rows.content is not None else rows.item
    label = rows.label if rows.label is not None else rows.item  # each item its own class
    return Rows(
        gather_with_gradient(rows.z),
        gather(rows.item),
        gather(content) if keyed and any(has_content for _, has_content, _ in table) else None,
        gather(label) if labelled else None,
        gather(momentum.z) if momentum is not None else None,
    )


def by_label(embedded: EmbeddedRows) -> EmbeddedRows:
    """The same rows, those whose items share a label belonging to one item.

    In a batch without any label each item is a class of its own.
    """
    labelled = {
        name: rows._replace(item=rows.label) if rows.label is not None else rows
        for name, rows in embedded.rows.items()
    }
    return replace(embedded, rows=labelled)


def pairs(loss: Any, embedded: EmbeddedRows) -> list[Tensor]:
    """Every two modalities, with the mask of the rows that belong together."""
    return [loss(left.z, right.z, _positives(left, right)) for left, right in embedded.paired()]


def keyed_pairs(loss: Any, embedded: EmbeddedRows) -> list[Tensor]:
    """Every two modalities with the keys of their rows, for losses that remember items."""
    _check_pairs(loss, embedded)
    return [loss(left.z, right.z, **_keys(left, right)) for left, right in embedded.paired()]


def candidate_pairs(loss: Any, embedded: EmbeddedRows) -> list[Tensor]:
    """As `keyed_pairs`, with embeddings by the momentum encoder where there is one."""
    _check_pairs(loss, embedded)
    return [
        loss(
            left.z,
            right.z,
            **_keys(left, right),
            left_candidates=left.momentum,
            right_candidates=right.momentum,
        )
        for left, right in embedded.paired()
    ]


class PairLosses(nn.Module):
    """A loss of its own for every pair of inputs, such as one temperature each.

    Args:
        build: makes the loss of a pair.
        pairs: of inputs.
    """

    def __init__(self, build: Callable[[], nn.Module], pairs: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self.of_pair = nn.ModuleDict({pair_name(pair): build() for pair in pairs})

    def constrain_(self) -> None:
        """Put every learned temperature back into its bounds."""
        for loss in self.of_pair.values():
            constrain = getattr(loss, "constrain_", None)
            if constrain is not None:
                constrain()


def pair_name(pair: tuple[str, str]) -> str:
    """The name of a pair of inputs in logs and weights."""
    return "_".join(pair)


def per_pair(pairing: Pairing) -> Pairing:
    """A pairing for `PairLosses`: each pair with the loss of its own."""

    def terms(losses: PairLosses, embedded: EmbeddedRows) -> list[Tensor]:
        return [
            term
            for pair in embedded.named_pairs()
            for term in pairing(losses.of_pair[pair_name(pair)], replace(embedded, pairs=[pair]))
        ]

    return terms


def views_of_each(loss: Any, embedded: EmbeddedRows) -> list[Tensor]:
    """Each modality in which some item has several rows."""
    return [
        loss(one.z, _positives(one, one))
        for one in embedded.rows.values()
        if len(torch.unique(one.item)) < len(one.z)
    ]


def joint_batch(loss: Any, embedded: EmbeddedRows) -> list[Tensor]:
    """The rows of every two modalities concatenated into one batch."""
    terms = []
    for left, right in embedded.paired():
        across = _positives(left, right)
        together = torch.cat(
            [
                torch.cat([_positives(left, left), across], dim=1),
                torch.cat([across.T, _positives(right, right)], dim=1),
            ]
        )
        terms.append(loss(torch.cat([left.z, right.z]), together))
    return terms


def matched_rows(loss: Any, embedded: EmbeddedRows) -> list[Tensor]:
    """One row per item and modality, of the items that every modality has."""
    places = [_first_rows(one.item) for one in embedded.rows.values()]
    shared = sorted(set.intersection(*(set(found) for found in places))) if places else []
    if len(embedded.rows) < 2 or len(shared) < 2:
        return []
    views = [
        one.z[torch.tensor([found[item] for item in shared], device=one.z.device)]
        for one, found in zip(embedded.rows.values(), places, strict=True)
    ]
    return [loss(views)]


def unpaired_rows(loss: Any, embedded: EmbeddedRows) -> list[Tensor]:
    """All rows of every modality; which of them belong together does not matter."""
    rows = [one.z for one in embedded.rows.values()]
    return [loss(rows)] if len(rows) > 1 else []


class TeacherPairs:
    """Every two modalities with embeddings of the same rows by a teacher, where it has them."""

    def __init__(self, teacher: TeacherEmbeddings) -> None:
        self.teacher = teacher

    def __call__(self, loss: Any, embedded: EmbeddedRows) -> list[Tensor]:
        known = {
            name: self.teacher.rows_of(name, one.item, one.content)
            for name, one in embedded.rows.items()
        }
        terms = []
        for a, b in embedded.named_pairs():
            (of_a, where_a), (of_b, where_b) = known[a], known[b]
            if len(of_a) and len(of_b):
                terms.append(
                    loss(embedded.rows[a].z[where_a], embedded.rows[b].z[where_b], of_a, of_b)
                )
        return terms

    def metrics(self) -> dict[str, float]:
        """Share of the rows since the last call that the teacher knew."""
        return {"teacher_coverage": self.teacher.teacher_coverage()}


def _check_pairs(loss: Any, embedded: EmbeddedRows) -> None:
    pairs = embedded.named_pairs()
    if loss.one_pair and len(pairs) > 1:
        raise DataError(
            f"{type(loss).__name__} with a queue or translators serves one pair of inputs, the "
            f"model has {', '.join(f'{a} and {b}' for a, b in pairs)}; name one with model.pairs"
        )


def _positives(left: Rows, right: Rows) -> Tensor:
    """(N, M) bool, True for the rows that belong together."""
    return positives_from_keys(left.item, right.item, left.content, right.content)


def _keys(left: Rows, right: Rows) -> dict[str, Tensor | None]:
    return {
        "left_item": left.item,
        "right_item": right.item,
        "left_content": left.content,
        "right_content": right.content,
    }


def _first_rows(item: Tensor) -> dict[int, int]:
    """Item key -> the place of its first row."""
    found: dict[int, int] = {}
    for place, key in enumerate(item.tolist()):
        found.setdefault(key, place)
    return found
