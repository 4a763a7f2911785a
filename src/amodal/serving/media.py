"""Files of hits, for the page to play: named by a row of the index, never by a path."""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlencode

from amodal.modalities.registry import modality
from amodal.search.store import Hit, VectorStore

# The tables of systems differ in these, and a browser plays nothing of an unknown type.
for suffix, subtype in (("flac", "flac"), ("ogg", "ogg"), ("oga", "ogg"), ("opus", "ogg")):
    mimetypes.add_type(f"audio/{subtype}", f".{suffix}")


def media_fields(hit: Hit, types: Mapping[str, str]) -> dict[str, object] | None:
    """MIME type and address of the file of a hit, and the moment in it; None where there is none.

    Args:
        hit: of a search.
        types: input -> modality type of the model; files of other types are not given away.
    """
    mime = _mime_type(hit.path, types)
    if mime is None:
        return None
    key = urlencode({"id": hit.id, "input": hit.input, "row": hit.row})
    return {"type": mime, "url": f"api/media?{key}", "span": hit.span}


def media_file(
    store: VectorStore, types: Mapping[str, str], id: str, input: str, row: int
) -> tuple[Path, str] | None:
    """The file of a row of the index with its MIME type; None where it has none, or has lost it."""
    hits = (hit for hit in store.get([id], input) if hit.row == row)
    path = next((hit.path for hit in hits), None)
    mime = _mime_type(path, types)
    if path is None or mime is None or not Path(path).is_file():
        return None
    return Path(path), mime


def _mime_type(path: str | None, types: Mapping[str, str]) -> str | None:
    suffixes = {suffix for kind in types.values() for suffix in modality(kind).file_suffixes}
    if path is None or Path(path).suffix[1:].lower() not in suffixes:
        return None
    return mimetypes.guess_type(f"a{Path(path).suffix}")[0] or "application/octet-stream"
