"""Media files by their suffixes, for sources that look for files."""

from __future__ import annotations

from collections.abc import Mapping

from amodal.data.decode import SUFFIXES as IMAGES
from amodal.data.decode_audio import SUFFIXES as AUDIO
from amodal.data.decode_video import SUFFIXES as VIDEO

# Modality type -> suffixes of its files; a folder is read for the first type that it has.
SUFFIXES_OF: Mapping[str, tuple[str, ...]] = {"image": IMAGES, "video": VIDEO, "audio": AUDIO}
MEDIA_SUFFIXES = frozenset(suffix for suffixes in SUFFIXES_OF.values() for suffix in suffixes)
