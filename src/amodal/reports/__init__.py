"""Reports: HTML pages and plots of runs and evaluations."""

from amodal.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "report": "Example SearchHit Heatmap Metric Plot Report SearchExample write_report",
    },
)
