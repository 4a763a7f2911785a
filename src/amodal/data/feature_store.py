"""Features on the disk, each under the digest of the value that it was computed from."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from amodal.data.atomic import staged_file
from amodal.data.features import FeatureTable

DIGEST_BYTES = 16
ABOUT = "about.json"
SHARD = ".safetensors"
FILE_VALUES = 4096  # of one file: work that is interrupted loses at most these,
FILE_SECONDS = 60.0  # or what was computed in this time


def cache_folder() -> Path:
    """The folder of everything that is computed once and kept: `$AMODAL_CACHE`, else the user's.

    Examples:
        >>> os.environ["AMODAL_CACHE"] = "/data/amodal"
        >>> cache_folder() == Path("/data/amodal")
        True
        >>> del os.environ["AMODAL_CACHE"]
    """
    named = os.environ.get("AMODAL_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "amodal"


@dataclass(frozen=True)
class Computed:
    """The features of one value.

    Args:
        digest: `DIGEST_BYTES` of its content.
        tokens: (N, D).
        truncated: the value was cut to the encoder's maximum length.
    """

    digest: bytes
    tokens: Tensor
    truncated: bool = False


class FeatureStore:
    """A folder of safetensors files to which several processes may add at the same time.

    A file is never changed once it is there. Two processes that compute the same value both write
    it, and one of the two is read.

    Args:
        folder: created where it is missing and values are kept.
        about: what the features are, written for people.
        keep: whether `flush` writes what was added; otherwise it forgets it.

    Attributes:
        damaged: files that could not be read; their values count as not computed.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = FeatureStore(Path(folder), {})
        ...     store.add([Computed(bytes(16), torch.ones(1, 4))])
        ...     store.flush()
        ...     again = FeatureStore(Path(folder), {})
        ...     again.table.gather(again.rows([bytes(16)]))["cached_tokens"].shape
        torch.Size([1, 1, 4])
    """

    def __init__(self, folder: Path, about: dict[str, Any], *, keep: bool = True) -> None:
        self.folder, self.keep = folder, keep
        self.damaged: list[Path] = []
        self._row: dict[bytes, int] = {}  # digest -> row of the table
        self._shards: list[_Shard] = []
        self._table: FeatureTable | None = None
        self._unwritten: list[Computed] = []
        self._files = 0  # shards that were read from files; those after them are not written yet
        self._written_at = time.monotonic()
        if keep:
            folder.mkdir(parents=True, exist_ok=True)
        if keep and not (folder / ABOUT).is_file():
            own = folder / f"{uuid.uuid4().hex}.partial"  # other processes may write theirs now
            own.write_text(json.dumps(about, indent=1, ensure_ascii=False), encoding="utf-8")
            own.replace(folder / ABOUT)
        for file in sorted(folder.glob(f"*{SHARD}")):
            try:
                self._take_file(file)
            except (SafetensorError, KeyError, OSError):
                self.damaged.append(file)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._row

    def __len__(self) -> int:
        return len(self._row)

    def add(self, values: Sequence[Computed]) -> None:
        """Add the features of some values, in memory until `flush`."""
        if values:
            self._unwritten += values
            self._take(_tensors(values))

    @property
    def is_flush_due(self) -> bool:
        """Whether so much was added, or so long ago, that it had better be written."""
        seconds = time.monotonic() - self._written_at
        return not self.keep or len(self._unwritten) >= FILE_VALUES or seconds > FILE_SECONDS

    def flush(self) -> None:
        """Write what was added as one more file, or forget it."""
        new, self._unwritten, self._written_at = self._unwritten, [], time.monotonic()
        if not new:
            return
        del self._shards[self._files :]
        self._table = None
        for value in new:
            self._row.pop(value.digest, None)
        if self.keep:
            file = self.folder / f"{uuid.uuid4().hex}{SHARD}"
            with staged_file(file) as staged:
                save_file(_tensors(new), staged)
            self._take_file(file)  # its values get the rows that they had

    def rows(self, digests: Sequence[bytes]) -> NDArray[np.int64]:
        """(R,) rows of the table of these values.

        Raises:
            KeyError: one of them was not added.
        """
        return np.array([self._row[digest] for digest in digests], dtype=np.int64)

    @property
    def table(self) -> FeatureTable:
        """The features of all values so far."""
        if self._table is None:
            shards = self._shards or [_Shard.of(_tensors([]))]
            number = [np.full(len(shard.start), i) for i, shard in enumerate(shards)]
            self._table = FeatureTable(
                [shard.tokens for shard in shards],
                np.concatenate(number),
                np.concatenate([shard.start for shard in shards]),
                np.concatenate([shard.length for shard in shards]),
                np.concatenate([shard.truncated for shard in shards]),
            )
        return self._table

    def _take_file(self, file: Path) -> None:
        self._take(load_file(file))  # mapped: read when a value is taken
        self._files = len(self._shards)

    def _take(self, tensors: dict[str, Tensor]) -> None:
        shard = _Shard.of(tensors)
        first = sum(len(before.start) for before in self._shards)
        self._shards.append(shard)
        self._table = None
        for row, digest in enumerate(tensors["digest"].numpy(), first):
            self._row[digest.tobytes()] = row


@dataclass(frozen=True)
class _Shard:
    """The values of one file; see `FeatureTable`."""

    tokens: Tensor
    start: NDArray[np.int64]
    length: NDArray[np.int64]
    truncated: NDArray[np.bool_]

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> _Shard:
        length = tensors["length"].numpy()
        return cls(
            tensors["tokens"], length.cumsum() - length, length, tensors["truncated"].numpy()
        )


def _tensors(values: Sequence[Computed]) -> dict[str, Tensor]:
    """The content of a file with these values."""
    digests = np.frombuffer(b"".join(value.digest for value in values), dtype=np.uint8)
    return {
        "digest": torch.from_numpy(digests.copy()).view(-1, DIGEST_BYTES),
        "tokens": torch.cat([value.tokens for value in values] or [torch.zeros(0, 0)]),
        "length": torch.tensor([len(value.tokens) for value in values], dtype=torch.int64),
        "truncated": torch.tensor([value.truncated for value in values], dtype=torch.bool),
    }
