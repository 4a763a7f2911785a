# Written by docs/public_names.py from __init__.py.
from amodal.modalities.modality import InputOptions as InputOptions
from amodal.modalities.modality import Modality as Modality
from amodal.modalities.modality import Preview as Preview
from amodal.modalities.registry import known_modalities as known_modalities

__all__ = [
    "InputOptions",
    "Modality",
    "Preview",
    "known_modalities",
]
