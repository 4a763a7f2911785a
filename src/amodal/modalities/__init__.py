"""Modality types: how values of one type are read, decoded, batched, saved and shown."""

from amodal.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "modality": "InputOptions Modality Preview",
        "registry": "known_modalities",
    },
)
