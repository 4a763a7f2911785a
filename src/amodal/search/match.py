"""Search with the match calibration of a run: what the score of each hit says about a match."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from amodal.evaluators.match_threshold import MatchCalibration
from amodal.metrics.match_threshold import LIKELY_MATCH, MatchCurve
from amodal.search.description import StoreError
from amodal.search.embed import EmbeddingModel
from amodal.search.query import query_vector, returned_input, text_notes
from amodal.search.store import Hit, VectorStore

REMEDY = "`amodal evaluate RUN --on SOURCE` with a held-out source makes one"


@dataclass(frozen=True)
class SearchResult:
    """The hits of a query, and what they say about it.

    Args:
        hits: best first, each with its `match` where the run is calibrated for its input.
        likely_match: whether a hit is a likely match; None where that cannot be said.
        notes: sentences on the query and on the hits.
        left_out: hits below the score that the asked precision needs.
    """

    hits: list[Hit]
    likely_match: bool | None = None
    notes: list[str] = field(default_factory=list)
    left_out: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Content for JSON, without the hits."""
        return {
            "likely_match": self.likely_match,
            "notes": self.notes,
            "left_out": self.left_out,
        }


def search_matches(
    store: VectorStore,
    model: EmbeddingModel,
    calibration: MatchCalibration | None,
    values: Mapping[str, Any],
    k: int,
    *,
    where: str | None = None,
    returned: str | None = None,
    min_precision: float | None = None,
) -> SearchResult:
    """The nearest rows of an index to a query, each with the probability that it is a match.

    Args:
        store: the index.
        model: that it was built with.
        calibration: of the run; None: it has none, which a note says.
        values: input -> the one value of the query.
        k: number of hits.
        where: filter, see `VectorStore.search_many`.
        returned: input whose rows are returned, or "all"; see `returned_input`.
        min_precision: leave out hits below the score from which on so large a share of the hits
            are matches.

    Raises:
        StoreError: the query cannot be used, or a precision is asked for and the run has no
            calibration for it.

    Examples:
        >>> import tempfile
        >>> from amodal.encoders import VectorConfig
        >>> from amodal.models.joint_embedding import Architecture, build_joint_embedding
        >>> from amodal.projection import LinearConfig
        >>> from amodal.search import VectorStore, search_matches
        >>> from amodal.search.rows import Row
        >>> encoders = {"sensor": VectorConfig(), "place": VectorConfig()}
        >>> architecture = Architecture(encoders=encoders, projection=LinearConfig(dim=8))
        >>> values = {"sensor": [0.1, 0.9, 0.4], "place": [47.0, 8.5]}
        >>> model = build_joint_embedding(architecture, lambda: iter([values]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = VectorStore.create(folder, dim=8, fingerprint=model.fingerprint())
        ...     z = model.encode(place=[values["place"]])[0]
        ...     _ = store.add([Row("a", "place", z)])
        ...     query = {"sensor": values["sensor"]}
        ...     result = search_matches(store, model, None, query, k=1)
        >>> [hit.id for hit in result.hits], result.likely_match, result.notes[0][:32]
        (['a'], None, 'the run has no match calibration')
    """
    wanted = returned_input(returned, store.counts(), model.types, values)
    hits = store.search(query_vector(model, values), k, where=where, input=wanted)
    notes = text_notes(model, values)
    if not hits:
        return SearchResult(hits, None, notes)
    inputs = dict.fromkeys(hit.input for hit in hits)
    # Rows that the filter leaves out are not searched.
    sizes = store.counts() if where is None else {i: store.count(i, where) for i in inputs}
    found = {name: _curve(calibration, values, name) for name in inputs}
    reasons = [reason for reason in found.values() if isinstance(reason, str)]
    curves = {name: curve for name, curve in found.items() if isinstance(curve, MatchCurve)}
    if min_precision is not None:
        if reasons:
            raise StoreError(f"no precision can be stated: {reasons[0]}")
        least = {n: _least_score(c, min_precision, sizes[n], notes) for n, c in curves.items()}
        kept = [hit for hit in hits if hit.score >= least[hit.input]]
    else:
        notes += dict.fromkeys(reasons)
        kept = hits
    matched = [
        replace(hit, match=curves[hit.input].match(hit.score, sizes[hit.input]))
        if hit.input in curves
        else hit
        for hit in kept
    ]
    likely = any(hit.match is not None and hit.match.label == LIKELY_MATCH for hit in matched)
    if not likely and not reasons:
        notes.append(_no_likely_match(matched, sum(sizes[name] for name in inputs)))
    return SearchResult(
        matched, likely if likely or not reasons else None, notes, len(hits) - len(kept)
    )


def _curve(
    calibration: MatchCalibration | None, values: Mapping[str, Any], returned: str
) -> MatchCurve | str:
    """The curve for a query and the rows it returns, or why there is none."""
    if calibration is None:
        return f"the run has no match calibration, so hits have a score alone; {REMEDY}"
    if len(values) > 1:
        return f"matches of a query of several parts ({', '.join(values)}) are not calibrated"
    query = next(iter(values))
    direction = f"{query}_to_{returned}"
    if direction in calibration.curves:
        return calibration.curves[direction]
    why = calibration.uncalibrated.get(direction, f"{calibration.source} has no such pairs")
    return f"hits from {query} to {returned} have a score alone, without calibration: {why}"


def _least_score(curve: MatchCurve, min_precision: float, rows: int, notes: list[str]) -> float:
    """The score that a hit needs; a note says what it means."""
    wanted = f"{100 * min_precision:g} %"
    found = curve.threshold(min_precision, rows)
    if found is None:
        best = max(value for value, _, _ in curve.precision(rows))
        notes.append(
            f"no score gives a precision of {wanted} among {rows:,} rows: the highest is "
            f"{100 * best:.0f} %, so every hit is left out"
        )
        return float("inf")
    top = f"{found.high:.3f}" if found.high < float("inf") else "not reached"
    notes.append(
        f"hits below {found.score:.3f} are left out (95 % interval {found.low:.3f} … {top}): from "
        f"there on {wanted} of the hits are matches; {100 * found.recall:.0f} % of all matches "
        "score as high"
    )
    return found.score


def _no_likely_match(hits: list[Hit], rows: int) -> str:
    best = max((hit.match.probability for hit in hits if hit.match is not None), default=None)
    shown = "" if best is None else f"; the best hit matches with a probability of {best:.2f}"
    return f"no likely match among {rows:,} rows{shown}"
