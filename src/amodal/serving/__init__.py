"""Serving: the REST interface and the web page of an index or a run."""

from amodal.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "app": "create_app",
        "served": "ServedModels open_served",
    },
)
