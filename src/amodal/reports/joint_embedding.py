"""The page of a run: figures, curves, example searches, similarities and a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from amodal.data.batch import key64
from amodal.data.decode import decode_image
from amodal.data.record import BrokenRecordError, Record, Source
from amodal.evaluators.retrieval import EmbeddedSource
from amodal.models.joint_embedding import Embeddings
from amodal.reports.frame import framed, with_intervals
from amodal.reports.plots import JointMap, joint_map
from amodal.reports.report import (
    FoundImage,
    Heatmap,
    Metric,
    Report,
    SearchExample,
)
from amodal.training.recipe import Recipe
from amodal.training.run import RunResult

SEARCHES = 3
SHOWN = 5  # images per search
SQUARE = 10  # captions and images of the similarity map
ON_MAP = 300  # pairs
NOT_SHOWN = ("queries", "queries_without_positive", "gallery", "mean_rank")
HEADLINES = (
    "retrieval/text_to_image/recall@1",
    "retrieval/text_to_image/recall@10",
    "retrieval/image_to_text/recall@1",
    "retrieval/image_to_text/recall@10",
)


def run_report(
    result: RunResult,
    recipe: Recipe,
    source: Source | None,
    *,
    title: str,
    commands: Sequence[str] = (),
    more: Mapping[str, float] | None = None,
) -> Report:
    """What the page of a run shows.

    Args:
        result: a run that went to its end.
        recipe: what it was trained with.
        source: the validation source, whose images are shown.
        title: heading of the page.
        commands: what to try next.
        more: further figures, such as those of another split.
    """
    report = framed(
        result,
        recipe,
        title=title,
        summary=_summary(result),
        metrics=_metrics({**result.metrics, **(more or {})}),
        commands=commands,
    )
    if source is None or not isinstance(result.validation, EmbeddedSource):
        return report
    rows = result.validation.rows
    if not {"image", "text"} <= rows.keys():
        return report
    images = _Images(source)
    return Report(
        **{
            **{name: getattr(report, name) for name in report.__dataclass_fields__},
            "searches": example_searches(rows, images),
            "heatmap": _heatmap(rows, images),
            "map_points": _map(rows),
        }
    )


class _Images:
    """Images and captions of a source by item key, decoded when they are shown."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.places: dict[int, int] = {}
        for i in range(len(source)):
            try:
                self.places[key64(str(source[i]["id"]))] = i
            except BrokenRecordError:
                continue

    def record(self, key: int) -> Record:
        return self.source[self.places[key]]

    def image(self, key: int) -> np.ndarray:
        record = self.record(key)
        return decode_image(record["image"], record["origin"], min_size=128)

    def caption(self, item: int, content: int) -> str:
        texts = [str(t) for t in self.record(item).get("text") or [""]]
        return next((t for t in texts if key64(t) == content), texts[0])


def example_searches(rows: Mapping[str, Embeddings], images: _Images) -> list[SearchExample]:
    """Searches with the first captions of items spread over the source; none is hand-picked."""
    image, text = rows["image"], rows["text"]
    chosen = np.linspace(0, len(text.z) - 1, SEARCHES).astype(int).tolist()
    examples = []
    for row in chosen:
        scores = image.z @ text.z[row]
        best = scores.argsort(descending=True, stable=True)
        true = image.item[best] == text.item[row]
        rank = int(true.nonzero()[0]) + 1 if bool(true.any()) else None
        examples.append(
            SearchExample(
                query=images.caption(int(text.item[row]), _content(text, row)),
                images=[
                    FoundImage(
                        images.image(int(image.item[i])),
                        float(scores[i]),
                        bool(image.item[i] == text.item[row]),
                    )
                    for i in best[:SHOWN]
                ],
                true_rank=rank,
            )
        )
    return examples


def _first_captions(rows: Mapping[str, Embeddings], count: int) -> list[tuple[int, int]]:
    """(image row, row of its first caption) of the first `count` items that have both."""
    first: dict[int, int] = {}
    for row, key in enumerate(rows["text"].item.tolist()):
        first.setdefault(key, row)
    keys = rows["image"].item.tolist()
    return [(i, first[key]) for i, key in enumerate(keys) if key in first][:count]


def _heatmap(rows: Mapping[str, Embeddings], images: _Images) -> Heatmap:
    pairs = _first_captions(rows, SQUARE)
    image, text = rows["image"], rows["text"]
    at_image, at_text = torch.tensor([p[0] for p in pairs]), torch.tensor([p[1] for p in pairs])
    return Heatmap(
        scores=(text.z[at_text] @ image.z[at_image].T).numpy(),
        texts=[images.caption(int(text.item[t]), _content(text, t)) for _, t in pairs],
        images=[images.image(int(image.item[i])) for i, _ in pairs],
    )


def _map(rows: Mapping[str, Embeddings]) -> JointMap:
    pairs = _first_captions(rows, ON_MAP)
    return joint_map(
        rows["image"].z[torch.tensor([p[0] for p in pairs])],
        rows["text"].z[torch.tensor([p[1] for p in pairs])],
    )


def _content(rows: Embeddings, row: int) -> int:
    return int(rows.content[row]) if rows.content is not None else 0


def _metrics(values: Mapping[str, float]) -> dict[str, Metric]:
    found = with_intervals(values, HEADLINES, chance=lambda name: _chance(name, values))
    return {name: one for name, one in found.items() if name.split("/")[-1] not in NOT_SHOWN}


def _chance(name: str, values: Mapping[str, float]) -> float | None:
    """Recall of a random order, for queries that have equally many positives."""
    direction, _, cutoff = name.partition("/recall@")
    queries, gallery = values.get(f"{direction}/queries"), values.get(f"{direction}/gallery")
    if not cutoff.isdigit() or not queries or not gallery:
        return None
    positives = max(1.0, gallery / queries)  # 5 captions per image, one image per caption
    missed = 1.0
    for drawn in range(int(cutoff)):
        missed *= max(0.0, 1 - positives / (gallery - drawn)) if gallery > drawn else 0.0
    return 1 - missed


def _summary(result: RunResult) -> str:
    model = result.model
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    modalities = " and ".join(model.inputs)
    text = (
        f"A joint embedding of {modalities} in {model.dim} dimensions, {millions:.1f} million "
        f"weights, trained for {result.steps} steps in {result.train_seconds:.0f} seconds."
    )
    if (
        isinstance(result.validation, EmbeddedSource)
        and {"image", "text"} <= result.validation.rows.keys()
    ):
        rows = result.validation.rows
        text += (
            f" Measured on {len(rows['image'].z)} images and {len(rows['text'].z)} captions "
            "that no gradient came from."
        )
    return text
