"""Which members of a shard make one item, and the record that they make."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from amodal.data.decode import SUFFIXES as IMAGES
from amodal.data.decode_audio import SUFFIXES as AUDIO
from amodal.data.decode_video import SUFFIXES as VIDEO
from amodal.data.notes import Notes
from amodal.data.record import BrokenRecordError, Record
from amodal.data.sources.columns import RESERVED
from amodal.data.surrogates import half_pair

Kind = Literal["image", "audio", "video", "text", "label", "json"]
MEDIA: tuple[Kind, ...] = ("image", "audio", "video")  # whose files become values of the record

# Members of other suffixes are never opened, above all pickles (.pyd, .pickle, .pth), which could
# run code.
SUFFIXES: dict[str, Kind] = {
    **dict.fromkeys(IMAGES, "image"),
    **dict.fromkeys(AUDIO, "audio"),
    **dict.fromkeys(VIDEO, "video"),
    **dict.fromkeys(("txt", "caption", "captions", "text"), "text"),
    **dict.fromkeys(("cls", "label"), "label"),
    "json": "json",
}
# `0001.image.png` and `0001.caption.txt`: what stands before the suffix says what a member is.
PARTS: dict[str, tuple[re.Pattern[str], dict[str, Kind]]] = {
    "image": (re.compile(r"(image|img|photo|picture)([_-]?\d+)?"), dict.fromkeys(IMAGES, "image")),
    "audio": (
        re.compile(r"(audio|sound|speech|voice)([_-]?\d+)?"),
        dict.fromkeys(AUDIO, "audio"),
    ),
    "video": (re.compile(r"(video|clip|movie)([_-]?\d+)?"), dict.fromkeys(VIDEO, "video")),
    "text": (re.compile(r"captions?|text|txt"), {"txt": "text"}),
    "label": (re.compile(r"label|class|cls"), {"txt": "label", "cls": "label"}),
    "json": (re.compile(r"json|meta|metadata|info"), {"json": "json"}),
}
MAX_ITEM_BYTES = 512 << 20
UNREAD = "members that are not read"


class Place(NamedTuple):
    """A member by the parts of its name: `d/v1.0.JPG` has stem `d/v1` and suffix `0.jpg`."""

    stem: str
    suffix: str


class Part(NamedTuple):
    """A member of an item: what it is, and its number among those that were grouped."""

    kind: Kind
    number: int


def place_of(name: str) -> Place:
    """A name split at the first dot of its last part, as in WebDataset."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return Place(folder + slash + stem, suffix)


def is_hidden(name: str) -> bool:
    """Whether a member is no part of the data: `._1.jpg` and `__MACOSX/` of a Mac, `__meta__`."""
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/")) or bool(
        re.match(r"__[^/]*__($|/)", name)
    )


def grouped(
    stem: str, suffixes: Sequence[str]
) -> tuple[dict[str, list[Part]], list[tuple[int, str]]]:
    """The items that members of one stem make.

    `1.jpg`, `1.txt` are one item, and `1.image.png`, `1.caption.txt` too. Where a name goes on
    after its first dot, the key does: `v1.0.jpg`, `v1.0.txt`. Unless the stem has members of its
    own, as in `1.txt`, `1.0.jpg`, `1.1.jpg`: two images of one item; in `1.txt`, `1.depth.png` the
    second one is a part of the item that is not known.

    Returns:
        key -> members; and number and suffix of each member that is not read.
    """
    own: list[Part] = []
    dotted: dict[str, list[tuple[str, Part]]] = {}
    unread: list[tuple[int, str]] = []
    numbered: list[Part] = []
    for number, written in enumerate(suffixes):
        suffix = written.lower()
        before, _, last = suffix.rpartition(".")
        kind = SUFFIXES.get(suffix) or (_part(before, last) if before else None)
        if kind is not None:
            own.append(Part(kind, number))
        elif last in SUFFIXES:
            longer = f"{stem}.{written.rpartition('.')[0]}"
            dotted.setdefault(longer, []).append((suffix, Part(SUFFIXES[last], number)))
        else:
            unread.append((number, suffix))
    items: dict[str, list[Part]] = {}
    for longer, parts in dotted.items():
        (suffix, part), *others = parts
        if not own or others:
            items[longer] = [part for _, part in parts]
        elif part.kind in MEDIA and suffix.rpartition(".")[0].isdigit():
            numbered.append(part)
        else:
            unread.append((part.number, suffix))
    if own:
        items = {stem: sorted(own + numbered, key=lambda part: part.number), **items}
    return items, unread


def _part(before: str, last: str) -> Kind | None:
    for pattern, kinds in PARTS.values():
        if last in kinds and pattern.fullmatch(before):
            return kinds[last]
    return None


def note_unread(notes: Notes, name: str, suffix: str) -> None:
    """Count a member that is not read, by its suffix."""
    kind = "hidden" if is_hidden(name) else f".{suffix}" if suffix else "no suffix"
    notes.add(UNREAD, name, kind=kind)


def record_of(
    contents: Sequence[tuple[Kind, str, bytes]], shard: str, key: str, origin: str
) -> Record:
    """The record of one item.

    Args:
        contents: what each member is, its suffix and its content.
        shard: name of the shard among the others; keys are unique within one shard only.
        key: of the item in its shard.
        origin: where it lies.

    Raises:
        BrokenRecordError: it is damaged, or has neither image nor audio nor video nor caption.
    """
    data: dict[str, Any] = {}
    for kind, suffix, content in contents:
        if kind == "json":
            data |= _object(content, suffix, origin)
    record: Record = {"id": f"{shard}/{key}", "origin": origin}
    if isinstance(data.get("id"), str | int) and not isinstance(data["id"], bool):
        record["id"] = str(data.pop("id"))
    for medium in MEDIA:
        files = [(suffix, content) for kind, suffix, content in contents if kind == medium]
        for suffix, content in files:
            if not content:
                raise BrokenRecordError(origin, f"empty {medium} (0 bytes): {suffix}")
        if files:
            record[medium] = files[0][1] if len(files) == 1 else [c for _, c in files]
    captions = _captions(contents, data, origin)
    if captions is not None:
        if not captions:
            raise BrokenRecordError(origin, "the caption is empty")
        record["text"] = captions
    if captions is None and not record.keys() & set(MEDIA):
        raise BrokenRecordError(origin, "neither image nor audio nor video nor caption")
    label = _label(data.pop("label", None), origin)
    for kind, suffix, content in contents:
        if kind == "label":
            label = _text(content, suffix, origin).strip() or label
    if label is not None:
        record["label"] = label
    for name, value in _metadata(data):
        record[name] = value
    return record


def _metadata(data: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The other values of the json, under names that are free."""
    for key, value in data.items():
        name = key
        while name in (*RESERVED, *MEDIA) or (name != key and name in data):
            name = f"column_{name}"
        yield name, value


def _object(content: bytes, suffix: str, origin: str) -> dict[str, Any]:
    try:
        data = json.loads(content)
    except RecursionError:
        raise BrokenRecordError(origin, f"damaged {suffix}: nested too deeply") from None
    except ValueError as error:
        raise BrokenRecordError(origin, f"damaged {suffix}: {error}") from None
    if not isinstance(data, dict):
        raise BrokenRecordError(
            origin, f"damaged {suffix}: expected an object, got a {type(data).__name__}"
        )
    wrong = half_pair(data) if b"\\ud" in content.lower() else None
    if wrong:
        raise BrokenRecordError(origin, f"damaged {suffix}: {wrong}")
    return data


def _captions(
    contents: Sequence[tuple[Kind, str, bytes]], data: dict[str, Any], origin: str
) -> list[str] | None:
    """The captions; None where the item has no place for one."""
    texts = [_text(content, suffix, origin) for kind, suffix, content in contents if kind == "text"]
    if texts:
        lines = [line for text in texts for line in text.splitlines()]
    else:
        key = next((k for k in ("captions", "caption", "text") if k in data), None)
        if key is None:
            return None
        value = data.pop(key)
        values = value if isinstance(value, list) else [value]
        lines = [_caption(v, key, origin) for v in values if v is not None]
    return [line.strip() for line in lines if line.strip()]


def _caption(value: Any, key: str, origin: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    what = f"an object with {', '.join(map(repr, value))}" if isinstance(value, dict) else ""
    raise BrokenRecordError(
        origin,
        f"json: expected {key!r} to be a string or a list of strings, got "
        f"{what or json.dumps(value)[:80]}; write the caption itself: "
        '{"captions": ["a dog", "a dog runs"]}',
    )


def _label(value: Any, origin: str) -> str | list[str] | None:
    """A class name, or several; None where the value says that there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return value or None
    if isinstance(value, list | dict):
        raise BrokenRecordError(
            origin, f"json: expected `label` to be one class, got {json.dumps(value)[:80]}"
        )
    return str(value).strip() or None


def _text(content: bytes, suffix: str, origin: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BrokenRecordError(origin, f"not UTF-8: {suffix} at byte {error.start}") from None
