"""Plot of the match threshold: precision and recall of search hits over all scores."""

from __future__ import annotations

from matplotlib.figure import Figure

from amodal.metrics.match_threshold import MatchCurve, Threshold
from amodal.reports.plots import Palette, new_figure, readable_name
from amodal.reports.report import Plot

MARKED = 0.9  # precision whose threshold is marked


def match_threshold_plot(direction: str, curve: MatchCurve, gallery: int) -> Plot:
    """Precision over recall of the hits above a score, in one direction of search.

    The curve of the other direction is nearly the same, as it counts the same pairs.

    Args:
        direction: such as `text_to_image`.
        curve: its match curve.
        gallery: rows that are searched.
    """
    threshold = curve.threshold(MARKED, gallery)
    reached = f"No score reaches a precision of {100 * MARKED:.0f} %."
    if threshold is not None:
        reached = (
            f"{100 * MARKED:.0f} % are correct from a score of {threshold.score:.2f} on, which "
            f"keeps {100 * threshold.recall:.0f} % of the matches."
        )
    return Plot(
        "match_threshold",
        f"Precision and recall of the hits {readable_name(direction)} from each score on, with "
        f"the 95 % interval, where one query in two has its match among {gallery:,} rows. "
        f"{reached}",
        lambda palette: precision_recall_figure(curve, gallery, threshold, palette),
    )


def precision_recall_figure(
    curve: MatchCurve, gallery: int, threshold: Threshold | None, palette: Palette
) -> Figure:
    """The curve with its interval, and a point at a threshold where there is one."""
    figure, axes = new_figure(palette, (5.6, 3.4))
    recall = [100 * share for share in curve.recall]
    value, low, high = (
        [100 * share for share in column] for column in zip(*curve.precision(gallery), strict=True)
    )
    axes.axhline(100 * MARKED, color=palette.muted, linewidth=1, linestyle="--", zorder=1)
    axes.fill_between(recall, low, high, color=palette.first, alpha=0.15, linewidth=0)
    axes.plot(recall, value, color=palette.first, linewidth=2)
    axes.text(
        99, 100 * MARKED + 1, f"{100 * MARKED:.0f} %", ha="right", va="bottom",
        color=palette.muted, fontsize=10,
    )  # fmt: skip
    if threshold is not None:
        point = (100 * threshold.recall, 100 * threshold.precision)
        axes.plot(*point, "o", color=palette.second, markersize=7, zorder=3)
        axes.annotate(
            f"score {threshold.score:.2f}", point, (7, 7), textcoords="offset points",
            color=palette.ink, fontsize=10,
        )  # fmt: skip
    axes.set_xlabel("recall (% of the matches)")
    axes.set_ylabel("precision (% of the hits)")
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 105)
    return figure
