"""Writes any source as WebDataset shards."""

from __future__ import annotations

import fcntl
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel, ValidationError
from webdataset import TarWriter

from amodal.data.atomic import full_disk_as_data_error, write_text
from amodal.data.inspection import Broken, Noted
from amodal.data.notes import notes_of
from amodal.data.packed_item import PackedItem, packed_item
from amodal.data.record import (
    BrokenRecordError,
    DataError,
    Record,
    Source,
    StreamingSource,
)
from amodal.data.record_facts import in_threads, records_in_order

INDEX = "index.json"
PROGRESS = ".pack.json"  # there as long as a pack is not finished
IF_FULL = "complete shards are kept: free some space, and the same command continues"
LISTED = 100  # broken records that the index lists


class Shard(BaseModel):
    """One tar file; its size in bytes."""

    name: str
    records: int
    bytes: int


class PackIndex(BaseModel):
    """Content of index.json.

    Args:
        left_out: name of a value that shards cannot hold -> records that had one.
        notes: what the source itself left out or put together.
    """

    source: str
    records: int
    images: int
    audio: int
    videos: int
    captions: int
    shards: list[Shard]
    broken: int
    broken_rows: list[Broken]
    left_out: dict[str, int]
    notes: list[Noted]


class _Job(BaseModel):
    """Source and shard sizes of a pack; an interrupted one goes on only with the same."""

    source: str
    rows: int | None
    shard_size_bytes: int
    records_per_shard: int


class _Progress(BaseModel):
    """The state after the last complete shard.

    Args:
        read: records of the source that it took.
        last: id or origin of the last of them.
    """

    job: _Job
    read: int = 0
    last: str = ""
    images: int = 0
    audio: int = 0
    videos: int = 0
    captions: int = 0
    shards: list[Shard] = []
    broken: int = 0
    broken_rows: list[Broken] = []
    left_out: dict[str, int] = {}

    def add_broken(self, error: BrokenRecordError) -> None:
        self.broken += 1
        if len(self.broken_rows) < LISTED:
            self.broken_rows.append(Broken(origin=error.origin, reason=error.reason))

    def write(self, folder: Path) -> None:
        write_text(folder / PROGRESS, self.model_dump_json())


def pack(
    source: Source | StreamingSource,
    folder: str | Path,
    *,
    shard_size_bytes: int = 1 << 28,
    records_per_shard: int = 10_000,
    overwrite: bool = False,
    workers: int = 4,
    progress: Callable[[int], None] | None = None,
    tell: Callable[[str], None] | None = None,
) -> PackIndex:
    """Write `shard-000000.tar`, ... and `index.json`; the source `webdataset` reads them.

    Images, audio and videos that are files or bytes are kept byte for byte, after one decoding to
    see that they are whole; arrays become PNG and WAV, those of videos are left out. A shard gets
    its name when it is complete, and the index is written last. A pack that was interrupted goes on
    after its last complete shard, and ends in the same files as one that was not.

    Args:
        source: what to write.
        folder: made if it is not there.
        shard_size_bytes: a shard ends with the record that reaches this.
        records_per_shard: or with this many records.
        overwrite: delete the shards that are there.
        workers: threads that read and decode.
        progress: called with the number of records read so far.
        tell: called with a sentence where an interrupted pack goes on.

    Raises:
        DataError: the folder cannot be written, or holds shards already.
    """
    if shard_size_bytes < 1 or records_per_shard < 1:
        raise DataError(
            f"expected a positive shard size, got {shard_size_bytes} bytes and "
            f"{records_per_shard} records"
        )
    folder = Path(folder)
    job = _Job(
        source=source.name,
        rows=len(source) if isinstance(source, Source) else None,
        shard_size_bytes=shard_size_bytes,
        records_per_shard=records_per_shard,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder), full_disk_as_data_error(folder, IF_FULL):
            state = _prepare(folder, job, overwrite)
            if not state.read:
                for error in getattr(source, "broken_rows", ()):
                    state.add_broken(error)
            elif tell is not None:
                tell(
                    f"{folder}: going on after {len(state.shards)} complete shards of an "
                    "interrupted pack"
                )
            _fill(source, folder, state, workers, progress)
            index = PackIndex(
                records=sum(shard.records for shard in state.shards),
                notes=[
                    Noted(what=n.what, count=n.count, examples=list(n.examples))
                    for n in notes_of(source)
                ],
                source=source.name,
                **state.model_dump(exclude={"job", "read", "last"}),
            )
            write_text(folder / INDEX, index.model_dump_json(indent=1))
            (folder / PROGRESS).unlink()
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror or error}") from error
    return index


def _fill(
    source: Source | StreamingSource,
    folder: Path,
    state: _Progress,
    workers: int,
    progress: Callable[[int], None] | None,
) -> None:
    """Write the shards that are not complete."""
    records = records_in_order(source, None)
    done = deque(islice(records, state.read), maxlen=1)
    if done and _name(done[0]) != state.last:
        raise DataError(
            f"{folder}: holds an interrupted pack, but record {state.read} of {source.name} is no "
            f"longer {state.last}; overwrite it, or choose another folder"
        )
    with ThreadPoolExecutor(workers) as pool, _ShardWriter(folder, state) as writer:
        samples = in_threads(records, packed_item, pool, 8 * workers)
        for number, sample in enumerate(samples, start=state.read + 1):
            state.read = number
            if isinstance(sample, BrokenRecordError):
                state.last = sample.origin
                state.add_broken(sample)
            else:
                state.last = sample.name
                writer.write(sample)
            if progress is not None:
                progress(number)


def _name(read: Callable[[], Record]) -> str:
    """The id of a record; the origin of one that cannot be read."""
    try:
        return str(read()["id"])
    except BrokenRecordError as error:
        return error.origin


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps other processes from packing into the folder; the lock ends with the process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise DataError(f"{folder}: another process is packing into it") from None
    try:
        yield
    finally:
        os.close(descriptor)


def _prepare(folder: Path, job: _Job, overwrite: bool) -> _Progress:
    """The state to go on from; what a new pack would find in its way is removed."""
    there = sorted(folder.glob("shard-*.tar"))
    if not overwrite:
        unfinished = _unfinished(folder, job)
        if unfinished is not None:
            return unfinished
        if there:
            raise DataError(
                f"{folder}: holds {len(there)} shards already; choose another folder, or "
                "overwrite them"
            )
    (folder / INDEX).unlink(missing_ok=True)
    (folder / PROGRESS).unlink(missing_ok=True)
    for file in (*there, *folder.glob(".shard-*.part")):
        file.unlink()
    state = _Progress(job=job)
    state.write(folder)
    return state


def _unfinished(folder: Path, job: _Job) -> _Progress | None:
    """The state of an interrupted pack; None where there is none."""
    try:
        state = _Progress.model_validate_json((folder / PROGRESS).read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        raise DataError(f"{folder / PROGRESS}: damaged; overwrite the pack") from None
    was, now = state.job.model_dump(), job.model_dump()
    different = [f"{key} {was[key]}, now {now[key]}" for key in was if was[key] != now[key]]
    if different:
        raise DataError(
            f"{folder}: holds an interrupted pack with {'; '.join(different)}; overwrite it, or "
            "choose another folder"
        )
    for shard in state.shards:
        file = folder / shard.name
        if not file.is_file() or file.stat().st_size != shard.bytes:
            raise DataError(
                f"{file}: expected {shard.bytes:,} bytes of an interrupted pack; overwrite it"
            )
    return state


class _ShardWriter:
    """Fills one shard after the other; what is not complete leaves no file."""

    def __init__(self, folder: Path, state: _Progress) -> None:
        self.folder = folder
        self.state = state
        self._number = sum(shard.records for shard in state.shards)
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

    def write(self, sample: PackedItem) -> None:
        if self._stream is None:
            self._stream = self._partial().open("wb")
            self._tar = TarWriter(self._stream, encoder=False, mtime=0)
        state = self.state
        state.images += sample.images
        state.audio += sample.audio
        state.videos += sample.videos
        state.captions += sample.captions
        state.left_out = dict(Counter(state.left_out) + Counter(sample.left_out))
        self._tar.write({"__key__": f"{self._number:09d}", **sample.members})
        # The stream lags behind by a buffer, so the blocks of tar are counted here.
        self._bytes += sum(512 + -(-len(c) // 512) * 512 for c in sample.members.values())
        self._number += 1
        self._in_shard += 1
        full = self._bytes >= state.job.shard_size_bytes
        if full or self._in_shard >= state.job.records_per_shard:
            self._finish()

    def _partial(self) -> Path:
        return self.folder / f".shard-{len(self.state.shards):06d}.tar.part"

    def _finish(self) -> None:
        if self._stream is None:
            return
        self._tar.close()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        self._stream = None
        partial = self._partial()
        name = f"shard-{len(self.state.shards):06d}.tar"
        partial.replace(self.folder / name)
        size = (self.folder / name).stat().st_size
        self.state.shards.append(Shard(name=name, records=self._in_shard, bytes=size))
        self.state.write(self.folder)
        self._in_shard = self._bytes = 0
