"""The report of a joint embedding: metrics, example searches, similarities and a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch

from amodal.data.record import Source
from amodal.evaluators.inputs import query_and_gallery
from amodal.evaluators.interpretation import recall_by_chance
from amodal.evaluators.match_threshold import MatchCalibration
from amodal.evaluators.retrieval import RetrievalResult
from amodal.models.joint_embedding import Embeddings, JointEmbedding
from amodal.reports.match_plots import match_threshold_plot
from amodal.reports.plots import JointMap, joint_map
from amodal.reports.report import Heatmap, Metric, Plot, Report, SearchExample, SearchHit, Shown
from amodal.reports.run_report import run_report, size_and_time, with_intervals
from amodal.reports.show_value import ShownItems
from amodal.training.recipe import Recipe
from amodal.training.run import RunResult

SEARCHES = 3
HITS = 5  # per search
PAIRS = 10  # of the similarity map
ON_MAP = 300  # pairs
NOT_SHOWN = ("queries", "queries_without_positive", "gallery", "mean_rank")
HEADLINES = ("recall@1", "recall@10")


def joint_embedding_report(
    result: RunResult,
    recipe: Recipe,
    source: Source | None,
    *,
    title: str,
    commands: Sequence[str] = (),
) -> Report:
    """The report of a run of a joint embedding.

    Args:
        result: a run that went to its end.
        recipe: of the run.
        source: the validation source, whose items are shown.
        title: heading of the page.
        commands: what to try next.
    """
    model = cast(JointEmbedding, result.model)
    found = cast("RetrievalResult | None", result.results.get("retrieval"))
    names = query_and_gallery(model)
    report = run_report(
        result,
        recipe,
        title=title,
        summary=_summary(result, model, found),
        metrics=_metrics(result.metrics, names),
        commands=commands,
    )
    if source is None or found is None or names is None:
        return report
    rows = found.embedded.rows
    report = replace(report, plots=_plots(result, model, rows, names))
    pairs = _first_pairs(rows[names[0]], rows[names[1]])
    if not pairs:
        return report
    items = ShownItems(model, source)
    return replace(
        report,
        searches=example_searches(rows, names, items),
        heatmap=_heatmap(rows, names, pairs[:PAIRS], items),
        map_points=_map(rows, names, pairs[:ON_MAP]),
    )


def example_searches(
    rows: Mapping[str, Embeddings], names: tuple[str, str], items: ShownItems
) -> list[SearchExample]:
    """Searches with queries spread over the source; none is hand-picked.

    Args:
        rows: embeddings by input.
        names: inputs of the queries and of the gallery.
        items: the values to show.
    """
    queries, gallery = rows[names[0]], rows[names[1]]
    examples = []
    for row in np.linspace(0, len(queries.z) - 1, SEARCHES).astype(int).tolist():
        scores = gallery.z @ queries.z[row]
        best = scores.argsort(descending=True, stable=True)
        correct = gallery.item[best] == queries.item[row]
        examples.append(
            SearchExample(
                query=_show(items, names[0], queries, row),
                hits=[
                    SearchHit(
                        _show(items, names[1], gallery, int(i)),
                        float(scores[i]),
                        bool(gallery.item[i] == queries.item[row]),
                    )
                    for i in best[:HITS]
                ],
                rank=int(correct.nonzero()[0]) + 1 if bool(correct.any()) else None,
            )
        )
    return examples


def _plots(
    result: RunResult, model: JointEmbedding, rows: Mapping[str, Embeddings], names: tuple[str, str]
) -> list[Plot]:
    """The match threshold of the search that the page shows, where the run has one."""
    query, gallery = names
    calibration = MatchCalibration.read(result.folder, model.fingerprint())
    direction = f"{query}_to_{gallery}"
    if calibration is None or direction not in calibration.curves:
        return []
    curve = calibration.curves[direction]
    return [match_threshold_plot(direction, curve, len(rows[gallery].z))]


def _first_pairs(queries: Embeddings, gallery: Embeddings) -> list[tuple[int, int]]:
    """(row of the first query, gallery row) of the items that have both."""
    first: dict[int, int] = {}
    for row, key in enumerate(queries.item.tolist()):
        first.setdefault(key, row)
    return [(first[key], i) for i, key in enumerate(gallery.item.tolist()) if key in first]


def _heatmap(
    rows: Mapping[str, Embeddings],
    names: tuple[str, str],
    pairs: Sequence[tuple[int, int]],
    items: ShownItems,
) -> Heatmap:
    queries, gallery = rows[names[0]], rows[names[1]]
    z_query = queries.z[torch.tensor([q for q, _ in pairs])]
    z_gallery = gallery.z[torch.tensor([g for _, g in pairs])]
    return Heatmap(
        scores=(z_query @ z_gallery.T).numpy(),
        rows=[_show(items, names[0], queries, q) for q, _ in pairs],
        columns=[_show(items, names[1], gallery, g) for _, g in pairs],
        names=names,
    )


def _map(
    rows: Mapping[str, Embeddings], names: tuple[str, str], pairs: Sequence[tuple[int, int]]
) -> JointMap:
    query, gallery = names
    return joint_map(
        rows[gallery].z[torch.tensor([g for _, g in pairs])],
        rows[query].z[torch.tensor([q for q, _ in pairs])],
        (gallery, query),
    )


def _show(items: ShownItems, name: str, rows: Embeddings, row: int) -> Shown:
    content = int(rows.content[row]) if rows.content is not None else None
    return items.show(name, int(rows.item[row]), content)


def _metrics(values: Mapping[str, float], names: tuple[str, str] | None) -> dict[str, Metric]:
    headlines = []
    if names is not None:
        for a, b in (names, names[::-1]):
            headlines += [f"retrieval/{a}_to_{b}/{metric}" for metric in HEADLINES]
    found = with_intervals(values, headlines, chance=lambda name: _chance(name, values))
    return {name: one for name, one in found.items() if name.split("/")[-1] not in NOT_SHOWN}


def _chance(name: str, values: Mapping[str, float]) -> float | None:
    direction, _, cutoff = name.partition("/recall@")
    return recall_by_chance(direction, int(cutoff), values) if cutoff.isdigit() else None


def _summary(result: RunResult, model: JointEmbedding, found: RetrievalResult | None) -> str:
    inputs = " and ".join(model.inputs)
    text = f"A joint embedding of {inputs} in {model.dim} dimensions, {size_and_time(result)}."
    if found is not None:
        counts = " and ".join(
            f"{len(rows.z):,} {name} embeddings" for name, rows in found.embedded.rows.items()
        )
        text += f" Evaluated on {counts} of held-out items."
    return text
