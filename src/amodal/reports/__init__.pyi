# Written by docs/public_names.py from __init__.py.
from amodal.reports.report import Example as Example
from amodal.reports.report import Heatmap as Heatmap
from amodal.reports.report import Metric as Metric
from amodal.reports.report import Plot as Plot
from amodal.reports.report import Report as Report
from amodal.reports.report import SearchExample as SearchExample
from amodal.reports.report import SearchHit as SearchHit
from amodal.reports.report import write_report as write_report

__all__ = [
    "Example",
    "Heatmap",
    "Metric",
    "Plot",
    "Report",
    "SearchExample",
    "SearchHit",
    "write_report",
]
