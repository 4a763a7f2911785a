"""Tar shards in WebDataset form, read in order, local or remote."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator
from typing import Any, Literal

import fsspec
from braceexpand import braceexpand
from webdataset.tariterators import group_by_keys, tar_file_expander

from amodal.data.decode import SUFFIXES as IMAGES
from amodal.data.record import BrokenRecordError, DataError, Record
from amodal.data.sources.renamed import RenamingConfig
from amodal.data.sources.rows import RESERVED

# Members with other suffixes are passed over unread, above all pickles (.pyd, .pickle, .pth),
# which could run code.
READ = frozenset({*IMAGES, "txt", "json", "cls"})


class WebDatasetConfig(RenamingConfig):
    """Tar files whose members share a name per item: 0001.jpg, 0001.txt, 0001.json.

    Image: jpg, png, webp, bmp, gif, tiff. Captions: txt, one per line, or in json a list
    `captions` or a string `caption` or `text`. Class name: cls, or `label` in json. What else
    the json holds is metadata, and its `id`, if any, the identity of the item.

    Args:
        path: file, glob, braces ("shard-{000..099}.tar"), or an address that fsspec knows
            ("s3://bucket/shard-*.tar", "https://..."); or several of them.
    """

    kind: Literal["webdataset"] = "webdataset"
    path: str | tuple[str, ...]

    def open(self) -> WebDatasetSource:
        """The source; shards are listed now and read when it is iterated.

        Raises:
            DataError: there is no such shard, or the address cannot be reached.
        """
        patterns = (self.path,) if isinstance(self.path, str) else self.path
        shards = [shard for pattern in patterns for shard in _shards(pattern)]
        if not shards:
            raise DataError("webdataset: `path` names no shard")
        name = shards[0].rsplit("/", 1)[-1]
        return WebDatasetSource(name if len(shards) == 1 else f"{name} and more", tuple(shards))


class WebDatasetSource:
    """The records of tar shards, one shard after the other.

    What cannot be read is yielded as its error: a member, or the rest of a shard.
    """

    inputs = frozenset({"image", "text"})

    def __init__(self, name: str, shards: tuple[str, ...]) -> None:
        self.name = name
        self.shards = shards

    def __iter__(self) -> Iterator[Record | BrokenRecordError]:
        for shard in self.shards:
            yield from _read_shard(shard)


def _shards(pattern: str) -> list[str]:
    try:
        expanded = list(braceexpand(pattern))
    except ValueError as error:
        raise DataError(f"{pattern}: {error}") from None
    found: list[str] = []
    for name in expanded:
        try:
            if "://" not in name:
                matches = sorted(glob.glob(name))
            elif glob.has_magic(name.split("://", 1)[1].split("?", 1)[0]):
                system, path = fsspec.core.url_to_fs(name)
                matches = sorted(system.unstrip_protocol(match) for match in system.glob(path))
            else:
                matches = [name]
        except (OSError, ImportError, ValueError) as error:
            raise DataError(f"{name}: shards cannot be listed: {error}") from None
        if not matches:
            raise DataError(f"{name}: no such shard")
        found += matches
    return found


def _read_shard(shard: str) -> Iterator[Record | BrokenRecordError]:
    errors: list[Exception] = []

    def note(error: Exception) -> bool:
        errors.append(error)
        return True  # go on

    try:
        with fsspec.open(shard, "rb") as stream:
            members = tar_file_expander(
                [{"url": shard, "stream": stream}], handler=note, select_files=is_read
            )
            for sample in group_by_keys(members, handler=note):
                if errors:  # they came up within this item, or right after it
                    yield _damage(f"{shard} {sample['__key__']}", errors)
                else:
                    yield _record_or_error(sample, shard)
            if errors:
                yield _damage(shard, errors)
    except (OSError, ImportError, ValueError) as error:
        yield BrokenRecordError(shard, f"the shard cannot be read: {error}")


def is_read(member: str) -> bool:
    """Whether a member of that name belongs to a record."""
    return member.rsplit("/", 1)[-1].partition(".")[2].lower() in READ


def _damage(origin: str, errors: list[Exception]) -> BrokenRecordError:
    first = errors[0]
    message = str(first.args[0]).split(" @ ")[0] if first.args else type(first).__name__
    errors.clear()
    return BrokenRecordError(origin, f"damaged tar: {message}")


def _record_or_error(sample: dict[str, Any], shard: str) -> Record | BrokenRecordError:
    try:
        return record_of(sample, f"{shard} {sample['__key__']}")
    except BrokenRecordError as error:
        return error


def record_of(sample: dict[str, Any], origin: str) -> Record:
    """The record of one item.

    Args:
        sample: `__key__`, and suffix -> content.
        origin: where it lies.

    Raises:
        BrokenRecordError: it is damaged, or has neither image nor caption.
    """
    data: dict[str, Any] = {}
    if "json" in sample:
        try:
            data = json.loads(sample["json"])
        except ValueError as error:
            raise BrokenRecordError(origin, f"damaged json: {error}") from None
        if not isinstance(data, dict):
            raise BrokenRecordError(
                origin, f"damaged json: expected an object, got a {type(data).__name__}"
            )
    record: Record = {"id": sample["__key__"], "origin": origin}
    if isinstance(data.get("id"), str | int):
        record["id"] = str(data.pop("id"))
    suffix = next((s for s in IMAGES if s in sample), None)
    if suffix is not None:
        if not sample[suffix]:
            raise BrokenRecordError(origin, f"empty image (0 bytes): {suffix}")
        record["image"] = sample[suffix]
    captions = _captions(sample, data, origin)
    if captions is not None:
        if not captions:
            raise BrokenRecordError(origin, "the caption is empty")
        record["text"] = captions
    if suffix is None and captions is None:
        raise BrokenRecordError(origin, "neither image nor caption")
    label = data.pop("label", None)
    if "cls" in sample:
        label = _text(sample["cls"], "cls", origin).strip()
    if label is not None:
        record["label"] = str(label)
    for key, value in data.items():
        record[f"column_{key}" if key in RESERVED else key] = value
    return record


def _captions(sample: dict[str, Any], data: dict[str, Any], origin: str) -> list[str] | None:
    """The captions; None where the item has no place for one."""
    if "txt" in sample:
        lines = _text(sample["txt"], "txt", origin).splitlines()
    else:
        key = next((k for k in ("captions", "caption", "text") if k in data), None)
        if key is None:
            return None
        value = data.pop(key)
        values = value if isinstance(value, list) else [value]
        lines = [str(v) for v in values if v is not None]
    return [line.strip() for line in lines if line.strip()]


def _text(content: bytes, suffix: str, origin: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BrokenRecordError(origin, f"not UTF-8: {suffix} at byte {error.start}") from None
