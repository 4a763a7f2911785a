"""Features on the disk, each under the digest of the value that it was computed from."""

from __future__ import annotations

import json
import os
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
        folder: created where it is missing.
        about: what the features are, written for people.

    Attributes:
        damaged: files that could not be read; their values count as not computed.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = FeatureStore(Path(folder), {})
        ...     store.add([Computed(bytes(16), torch.ones(1, 4))])
        ...     table = FeatureStore(Path(folder), {}).table([bytes(16)])
        ...     table.gather(np.array([0]))["cached_tokens"].shape
        torch.Size([1, 1, 4])
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder = folder
        self.damaged: list[Path] = []
        self._shards: list[dict[str, Tensor]] = []
        self._place: dict[bytes, tuple[int, int]] = {}  # digest -> shard, value in it
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / ABOUT).is_file():
            own = folder / f"{uuid.uuid4().hex}.partial"  # other processes may write theirs now
            own.write_text(json.dumps(about, indent=1, ensure_ascii=False), encoding="utf-8")
            own.replace(folder / ABOUT)
        for file in sorted(folder.glob(f"*{SHARD}")):
            try:
                self._take(load_file(file))  # mapped: read when a value is taken
            except (SafetensorError, KeyError, OSError):
                self.damaged.append(file)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._place

    def add(self, values: Sequence[Computed]) -> None:
        """Write the features of some values as one more file."""
        if not values:
            return
        digests = np.frombuffer(b"".join(value.digest for value in values), dtype=np.uint8)
        tensors = {
            "digest": torch.from_numpy(digests.copy()).view(-1, DIGEST_BYTES),
            "tokens": torch.cat([value.tokens for value in values]),
            "length": torch.tensor([len(value.tokens) for value in values]),
            "truncated": torch.tensor([value.truncated for value in values]),
        }
        file = self.folder / f"{uuid.uuid4().hex}{SHARD}"
        with staged_file(file) as staged:
            save_file(tensors, staged)
        self._take(load_file(file))

    def table(self, digests: Sequence[bytes]) -> FeatureTable:
        """The features of these values, in their order.

        Raises:
            KeyError: one of them was not added.
        """
        place = np.array([self._place[digest] for digest in digests], dtype=np.int64).reshape(-1, 2)
        starts = [_starts(shard["length"]) for shard in self._shards]
        lengths = [shard["length"].numpy() for shard in self._shards]
        cut = [shard["truncated"].numpy() for shard in self._shards]
        pairs = place.tolist()
        return FeatureTable(
            [shard["tokens"] for shard in self._shards],
            place[:, 0],
            np.array([starts[s][v] for s, v in pairs], dtype=np.int64),
            np.array([lengths[s][v] for s, v in pairs], dtype=np.int64),
            np.array([cut[s][v] for s, v in pairs], dtype=bool),
        )

    def _take(self, shard: dict[str, Tensor]) -> None:
        number = len(self._shards)
        digests = shard["digest"].numpy()
        self._shards.append({name: shard[name] for name in ("tokens", "length", "truncated")})
        for value, digest in enumerate(digests):
            self._place[digest.tobytes()] = (number, value)


def _starts(length: Tensor) -> NDArray[np.int64]:
    found: NDArray[np.int64] = np.cumsum(length.numpy()) - length.numpy()
    return found
