"""Sentences that compare metrics with chance, the start, a constant and single inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

START = "start"  # prefix of the metrics of pretrained weights before any training
KEYWORDS = "keyword_search"  # prefix of the metrics of a search in other captions of the items
CONSTANT = "constant"  # prefix of the metrics of the same prediction or text for every item
FEW_QUERIES = 20  # with fewer, bootstrap intervals are too narrow: all right or all wrong is common
MAX_DIRECTIONS = 2  # of a model with many inputs; the table has all of them

AsText = Callable[[float], str]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.0005 or share == 0 else f"{100 * share:.2g} %"


def _number(value: float) -> str:
    return f"{value:.4g}"


@dataclass(frozen=True)
class _Score:
    """A metric that is compared with a constant prediction, and what is said of it.

    Args:
        name: of the metric.
        sentence: with a place for the value.
        constant: the prediction or text that is the same for every item.
        as_text: how values are written.
        is_error: whether less is better.
    """

    name: str
    sentence: str
    constant: str
    as_text: AsText = _percent
    is_error: bool = False


MEAN, CLASS = "always predicting the mean", "always predicting the most frequent class"
ANSWER, CAPTION = "always giving the most frequent answer", "the best caption for all images alike"
SCORES = (
    _Score("prediction/accuracy", "the prediction is correct for {} of the items", CLASS),
    _Score(
        "prediction/mean_average_precision",
        "the mean average precision is {}",
        "the same prediction for every item",
        _number,
    ),
    _Score("prediction/mae", "the mean absolute error is {}", MEAN, _number, is_error=True),
    _Score("vqa/accuracy", "the VQA accuracy is {}", ANSWER),
    _Score("vqa/exact_match", "the answer equals the reference for {} of the questions", ANSWER),
    _Score("dialogue/exact_match", "the answer equals the reference in {} of the rounds", ANSWER),
    _Score(
        "single_turn/exact_match", "the answer equals the reference for {} of the questions", ANSWER
    ),
    _Score("caption/cider_d", "the CIDEr-D of the captions is {}", CAPTION, _number),
)


def interpret(metrics: Mapping[str, float]) -> list[str]:
    """Sentences on flat metrics; none where there is nothing to compare them with.

    A factor over chance is named only where the 95 % interval lies above chance.

    Args:
        metrics: flat values with their intervals, as an evaluation writes them.

    Examples:
        >>> from amodal.evaluators import interpret
        >>> values = {"recall@1": 0.2, "recall@1/low": 0.18, "recall@1/high": 0.22}
        >>> values |= {"recall@10": 0.6, "queries": 1000, "gallery": 1000}
        >>> text = interpret({f"retrieval/text_to_image/{n}": v for n, v in values.items()})[0]
        >>> "the best of 1,000 rows is correct for 20.0 % (95 % interval 18.0 … 22.0 %)" in text
        True
        >>> "200 times chance (0.1 %)" in text
        True
    """
    names = [n for n in metrics if n.startswith("retrieval/") and n.endswith("/recall@1")]
    found = [_retrieval(name, metrics) for name in names[:MAX_DIRECTIONS]]
    if "zero_shot/top1" in metrics and metrics.get("zero_shot/classes"):
        classes = metrics["zero_shot/classes"]
        found.append(
            f"the best of {classes:,.0f} classes is correct for "
            f"{_with_interval('zero_shot/top1', metrics)} of the items"
            f"{_beside_chance('zero_shot/top1', 1 / classes, metrics)}."
        )
    compared = [s for s in SCORES if s.name in metrics and f"{CONSTANT}/{s.name}" in metrics]
    return found + [_beside_constant(score, metrics) for score in compared]


def recall_by_chance(direction: str, k: int, metrics: Mapping[str, float]) -> float | None:
    """Recall@k of a random order, for queries that have equally many positives.

    Args:
        direction: prefix of the metrics, such as `retrieval/text_to_image`.
        k: rank up to which a positive counts.
        metrics: flat values, with the numbers of queries and of gallery rows.
    """
    queries, gallery = metrics.get(f"{direction}/queries"), metrics.get(f"{direction}/gallery")
    if not queries or not gallery:
        return None
    positives = max(1.0, gallery / queries)  # 5 captions per image, one image per caption
    missed = 1.0
    for drawn in range(k):
        missed *= max(0.0, 1 - positives / (gallery - drawn)) if gallery > drawn else 0.0
    return 1 - missed


def _retrieval(name: str, metrics: Mapping[str, float]) -> str:
    direction = name.rpartition("/")[0]
    readable = direction.removeprefix("retrieval/").replace("_to_", " to ").replace("_", " ")
    rows = f"{metrics.get(f'{direction}/gallery', 0):,.0f} rows"
    parts = [
        f"{readable}: the best of {rows} is correct for {_with_interval(name, metrics)} of the "
        f"queries{_beside_chance(name, recall_by_chance(direction, 1, metrics), metrics)}"
    ]
    if f"{direction}/recall@10" in metrics:
        share = _percent(metrics[f"{direction}/recall@10"])
        parts.append(f"one of the best 10 is correct for {share}")
    query = direction.removeprefix("retrieval/").partition("_to_")[0]
    references = (
        (f"{START}/{name}", "the pretrained weights before training"),
        (f"{KEYWORDS}/{query}/recall@1", "a keyword search in another caption of each item"),
    )
    parts += _comparisons(name, references, metrics)
    queries = metrics.get(f"{direction}/queries", FEW_QUERIES)
    if queries < FEW_QUERIES:
        parts.append(f"{queries:.0f} queries are too few to rely on")
    return "; ".join(parts) + "."


def _beside_constant(score: _Score, metrics: Mapping[str, float]) -> str:
    task, _, metric = score.name.partition("/")
    single = {
        name: f"{name.split('/')[1].removesuffix('_only')} alone, where an item has it"
        for name in metrics
        if name.startswith(f"{task}/") and name.endswith(f"_only/{metric}")
    }
    references = [(f"{CONSTANT}/{score.name}", score.constant), *single.items()]
    parts = [
        score.sentence.format(_with_interval(score.name, metrics, score.as_text)),
        *_comparisons(score.name, references, metrics, score.as_text, is_error=score.is_error),
    ]
    return "; ".join(parts) + "."


def _beside_chance(name: str, chance: float | None, metrics: Mapping[str, float]) -> str:
    if not chance:
        return ""
    share = _percent(chance)
    low, value = metrics.get(f"{name}/low"), metrics[name]
    if low is None:
        return f"; by chance it would be {share}"
    if low <= chance:
        return f", which is not distinguishable from chance ({share})"
    return f", {value / chance:.{0 if value > 10 * chance else 1}f} times chance ({share})"


def _comparisons(
    name: str,
    references: Iterable[tuple[str, str]],
    metrics: Mapping[str, float],
    as_text: AsText = _percent,
    *,
    is_error: bool = False,
) -> list[str]:
    """Comparison of a metric with others, given as names and phrases: better, worse or neither."""
    groups: dict[str, list[str]] = {}
    for reference, phrase in references:
        if reference in metrics:
            value = metrics[reference]
            verdict = _verdict(name, value, metrics, is_error=is_error)
            groups.setdefault(verdict, []).append(f"{phrase} ({as_text(value)})")
    return [f"{verdict} {_listed(phrases)}" for verdict, phrases in groups.items()]


def _verdict(name: str, reference: float, metrics: Mapping[str, float], *, is_error: bool) -> str:
    low, high = metrics.get(f"{name}/low"), metrics.get(f"{name}/high")
    if low is None or high is None:
        return "compare with"
    if low <= reference <= high:
        return "that is not distinguishable from"
    return "that is better than" if (low > reference) != is_error else "that is worse than"


def _listed(phrases: list[str]) -> str:
    *first, last = phrases
    return f"{', '.join(first)} and {last}" if first else last


def _with_interval(name: str, metrics: Mapping[str, float], as_text: AsText = _percent) -> str:
    text = as_text(metrics[name])
    low, high = metrics.get(f"{name}/low"), metrics.get(f"{name}/high")
    if low is None or high is None:
        return text
    lowest = as_text(low).removesuffix(" %")
    return f"{text} (95 % interval {lowest} … {as_text(high)})"
