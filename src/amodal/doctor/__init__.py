"""Doctor: what is wrong with a source, a recipe or a run, with evidence and what to change."""

from amodal.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "diagnosis": "Diagnosis diagnose",
        "finding": "Finding",
        "subject": "Subject open_subject",
    },
)
