"""Modality types by name: those of this package, and those that other packages register."""

from __future__ import annotations

import difflib
from functools import cache

from amodal.modalities.audio import AudioModality
from amodal.modalities.columns import ColumnsModality
from amodal.modalities.conversation import ConversationModality
from amodal.modalities.image import ImageModality
from amodal.modalities.modality import Modality
from amodal.modalities.text import TextModality
from amodal.modalities.vector import VectorModality
from amodal.plugins import load_plugins

GROUP = "amodal.modalities"  # of entry points: NAME = "package.module:ModalityClass"
BUILT_IN: tuple[type[Modality], ...] = (
    ImageModality,
    TextModality,
    AudioModality,
    VectorModality,
    ColumnsModality,
    ConversationModality,
)


@cache
def known_modalities() -> dict[str, Modality]:
    """Type name -> modality; those of entry points come after those of this package."""
    found = {kind.name: kind() for kind in BUILT_IN}
    for kind in load_plugins(GROUP):
        found.setdefault(kind.name, kind())
    return found


def modality(name: str) -> Modality:
    """The modality type of this name.

    Raises:
        ValueError: there is none; names the nearest.
    """
    known = known_modalities()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no modality type {name!r}{hint} (types: {', '.join(known)})")
    return known[name]
