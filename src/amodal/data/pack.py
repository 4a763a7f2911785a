"""Writes any source as WebDataset shards."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import date, time
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from pydantic import BaseModel
from webdataset import TarWriter

from amodal.data.decode import load_image, suffix_of
from amodal.data.inspection import Broken, in_threads, records_in_order
from amodal.data.record import BrokenRecordError, DataError, Record, Source, StreamingSource

INDEX = "index.json"
LISTED = 100  # broken records that the index lists


class Shard(BaseModel):
    """One tar file; its size in bytes."""

    name: str
    records: int
    bytes: int


class PackIndex(BaseModel):
    """What `pack` wrote, as in index.json."""

    source: str
    records: int
    images: int
    captions: int
    shards: list[Shard]
    broken: int
    broken_rows: list[Broken]


def pack(
    source: Source | StreamingSource,
    folder: str | Path,
    *,
    shard_size_bytes: int = 1 << 28,
    records_per_shard: int = 10_000,
    overwrite: bool = False,
    workers: int = 4,
    progress: Callable[[int], None] | None = None,
) -> PackIndex:
    """Write `shard-000000.tar`, ... and `index.json`; the source `webdataset` reads them.

    Images that are files or bytes are kept byte for byte, after one decoding to see that they
    are whole; arrays become PNG. A shard gets its name when it is complete, and the index is
    written last.

    Args:
        source: what to write.
        folder: made if it is not there.
        shard_size_bytes: a shard ends with the record that reaches this.
        records_per_shard: or with this many records.
        overwrite: delete the shards that are there.
        workers: threads that read and decode.
        progress: called with the number of records read so far.

    Raises:
        DataError: the folder cannot be written, or holds shards already.
    """
    if shard_size_bytes < 1 or records_per_shard < 1:
        raise DataError(
            f"expected a positive shard size, got {shard_size_bytes} bytes and "
            f"{records_per_shard} records"
        )
    folder = Path(folder)
    broken = list(getattr(source, "broken_rows", ()))
    try:
        _prepare(folder, overwrite)
        writer = _ShardWriter(folder, shard_size_bytes, records_per_shard)
        with ThreadPoolExecutor(workers) as pool, writer:
            members = in_threads(records_in_order(source, None), _members, pool, 8 * workers)
            for number, sample in enumerate(members, start=1):
                if isinstance(sample, BrokenRecordError):
                    broken.append(sample)
                else:
                    writer.write(sample)
                if progress is not None:
                    progress(number)
        index = PackIndex(
            source=source.name,
            records=sum(shard.records for shard in writer.shards),
            images=writer.images,
            captions=writer.captions,
            shards=writer.shards,
            broken=len(broken),
            broken_rows=[Broken(origin=e.origin, reason=e.reason) for e in broken[:LISTED]],
        )
        partial = folder / f".{INDEX}.part"
        partial.write_text(index.model_dump_json(indent=1), encoding="utf-8")
        partial.replace(folder / INDEX)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror or error}") from error
    return index


def _prepare(folder: Path, overwrite: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    there = sorted(folder.glob("shard-*.tar"))
    if there and not overwrite:
        raise DataError(
            f"{folder}: holds {len(there)} shards already; choose another folder, or overwrite them"
        )
    (folder / INDEX).unlink(missing_ok=True)
    for file in (*there, *folder.glob(".shard-*.part")):
        file.unlink()


def _members(record: Record) -> dict[str, Any]:
    """The members of one record: the image under its suffix, and the json."""
    origin = str(record["origin"])
    sample: dict[str, Any] = {}
    value = record.get("image")
    if value is not None:
        pixels, content = load_image(value, origin, min_size=1)
        suffix = "png" if content is None else suffix_of(content)
        if content is None or suffix is None:
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, format="PNG")
            content, suffix = buffer.getvalue(), "png"
        sample[suffix] = content
    data = {k: v for k, v in record.items() if k not in ("image", "text", "origin")}
    if record.get("text"):
        data["captions"] = list(record["text"])
    sample["json"] = data
    return sample


class _ShardWriter:
    """Fills one shard after the other; what is not complete leaves no file."""

    def __init__(self, folder: Path, size_bytes: int, records: int) -> None:
        self.folder = folder
        self.size_bytes = size_bytes
        self.records = records
        self.shards: list[Shard] = []
        self.images = 0
        self.captions = 0
        self._number = 0
        self._in_shard = 0
        self._bytes = 0
        self._stream: BinaryIO | None = None
        self._tar: Any = None

    def __enter__(self) -> _ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._finish()
        elif self._stream is not None:
            with suppress(OSError):
                self._tar.close()
            with suppress(OSError):
                self._stream.close()
            with suppress(OSError):
                self._partial().unlink()

    def write(self, sample: dict[str, Any]) -> None:
        if self._stream is None:
            self._stream = self._partial().open("wb")
            self._tar = TarWriter(self._stream, encoder=False, mtime=0)
        data = sample["json"]
        self.images += len(sample) - 1
        self.captions += len(data.get("captions", []))
        text = json.dumps(data, ensure_ascii=False, default=_plain, sort_keys=True)
        members = {**sample, "json": text.encode()}
        self._tar.write({"__key__": f"{self._number:09d}", **members})
        # The stream lags behind by a buffer, so the blocks of tar are counted here.
        self._bytes += sum(512 + -(-len(content) // 512) * 512 for content in members.values())
        self._number += 1
        self._in_shard += 1
        if self._in_shard >= self.records or self._bytes >= self.size_bytes:
            self._finish()

    def _partial(self) -> Path:
        return self.folder / f".shard-{len(self.shards):06d}.tar.part"

    def _finish(self) -> None:
        if self._stream is None:
            return
        self._tar.close()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        self._stream = None
        partial = self._partial()
        name = f"shard-{len(self.shards):06d}.tar"
        partial.replace(self.folder / name)
        size = (self.folder / name).stat().st_size
        self.shards.append(Shard(name=name, records=self._in_shard, bytes=size))
        self._in_shard = self._bytes = 0


def _plain(value: Any) -> Any:
    """Metadata as JSON; what has no form there is left out."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray | Image.Image):
        return None
    return str(value)
