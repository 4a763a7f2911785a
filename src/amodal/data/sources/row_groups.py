"""Which rows are one item."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from amodal.data.record import DataError

Column = Callable[[str], pa.ChunkedArray]
INTEGER = np.int64
BLOCK = 256  # rows whose contents are in memory at once


@dataclass(frozen=True)
class Groups:
    """Rows item by item.

    Args:
        item: (rows,) the item of each row; items are numbered by their first row.
        merged: rows that are part of the item of an earlier row.
        differing: column -> merged rows that say something else there than the first row does.
        repeated: rows with the key of an earlier row that are items of their own.
    """

    item: np.ndarray
    merged: np.ndarray
    differing: dict[str, np.ndarray] = field(default_factory=dict)
    repeated: np.ndarray = field(default_factory=lambda: np.empty(0, INTEGER))


def grouped(
    column: Column,
    rows: int,
    key: str | None,
    *,
    file: np.ndarray | None,
    apart: Sequence[str],
    free: Sequence[str],
    empty_agrees: bool,
) -> Groups:
    """Rows with the same key are one item, as long as they agree in the columns that matter.

    Args:
        column: reads a column.
        rows: how many there are.
        key: column of the key; None: each row is an item. Rows with an empty key stand alone.
        file: (rows,) which file each is from, where equal keys in two files are different ones.
        apart: columns in which rows of one item agree.
        free: columns that may differ within an item.
        empty_agrees: an empty cell agrees with any other; False: with empty ones alone.

    Raises:
        DataError: the key is of a type that has no equality.
    """
    if key is None:
        return Groups(np.arange(rows), np.empty(0, INTEGER))
    of_key = _first_of_key(column(key), file)
    shared = np.flatnonzero(np.bincount(of_key, minlength=rows)[of_key] > 1)
    first = of_key.copy()
    for name in apart if len(shared) else ():
        codes = _codes(column(name), shared)
        if empty_agrees:
            codes = _filled(codes, of_key[shared], empty_cells(column(name))[shared])
        pairs = first[shared] * (codes.max() + 1) + codes
        _, places, inverse = np.unique(pairs, return_index=True, return_inverse=True)
        first[shared] = shared[places[inverse]]
    of_row = np.arange(rows)
    merged = np.flatnonzero(first != of_row)
    differing = {}
    place = np.empty(rows, INTEGER)
    place[shared] = np.arange(len(shared))
    for name in free if len(merged) else ():
        codes = _codes(column(name), shared)
        other = merged[codes[place[merged]] != codes[place[first[merged]]]]
        if len(other):
            differing[name] = other
    _, item = np.unique(first, return_inverse=True)
    repeated = np.flatnonzero((first == of_row) & (of_key != of_row))
    return Groups(item, merged, differing, repeated)


def _filled(codes: np.ndarray, key: np.ndarray, empty: np.ndarray) -> np.ndarray:
    """(rows,) int: the codes, those of empty cells replaced by the first other one of their key."""
    keys, places = np.unique(key[~empty], return_index=True)
    if not len(keys):
        return codes
    place = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
    known = keys[place] == key
    return np.where(empty & known, codes[~empty][places[place]], codes)


def empty_cells(column: pa.ChunkedArray) -> np.ndarray:
    """(rows,) bool: True where a cell is null or blank."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = pc.equal(pc.utf8_trim_whitespace(column), "")
        return np.asarray(pc.fill_null(column, True).to_numpy()).astype(bool)
    return np.asarray(column.is_null().to_numpy()).astype(bool)


def shared_keys(column: pa.ChunkedArray) -> np.ndarray:
    """(rows,) bool: True where another row has the same value."""
    first = _first_of_key(column, None)
    return np.asarray(np.bincount(first, minlength=len(first))[first] > 1)


def _first_of_key(column: pa.ChunkedArray, file: np.ndarray | None) -> np.ndarray:
    """(rows,) int: the first row with the same key, and the row itself where there is no key."""
    if pa.types.is_nested(column.type) or _is_binary(column.type):
        raise DataError(f"rows cannot be grouped by a column of type {column.type}")
    if pa.types.is_string(column.type):
        column = column.cast(pa.large_string())  # 32-bit offsets overflow past 2 GiB of keys
    encoded = pa.concat_arrays(column.chunks).dictionary_encode()
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(INTEGER)
    keyless = codes < 0
    if pa.types.is_large_string(column.type):
        blank = pc.equal(pc.utf8_trim_whitespace(encoded.dictionary), "")
        keyless |= np.isin(codes, np.flatnonzero(blank.to_numpy(zero_copy_only=False)))
    if file is not None:
        codes = codes * (int(file.max()) + 1) + file
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    rows = first[inverse]
    return np.where(keyless, np.arange(len(rows)), rows)


def _codes(column: pa.ChunkedArray, rows: np.ndarray) -> np.ndarray:
    """(len(rows),) int: equal where the values of these rows are equal."""
    if pa.types.is_null(column.type):
        return np.zeros(len(rows), INTEGER)
    if pa.types.is_nested(column.type) or _is_binary(column.type):
        # File contents are large: they are hashed some rows at a time.
        blocks = (rows[i : i + BLOCK] for i in range(0, len(rows), BLOCK))
        keys = [_digest(v) for block in blocks for v in column.take(pa.array(block)).to_pylist()]
        _, codes = np.unique(np.array(keys, dtype="S8"), return_inverse=True)
        return codes
    if pa.types.is_string(column.type):
        column = column.cast(pa.large_string())
    encoded = pa.concat_arrays(column.take(pa.array(rows)).chunks).dictionary_encode()
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(INTEGER)
    return np.asarray(codes + 1)


def _digest(value: Any) -> bytes:
    """8 bytes that stand for a value; the last is no zero, which numpy would cut off."""
    parts = value.values() if isinstance(value, Mapping) else [value]
    found = blake2b(digest_size=7)
    for part in parts:
        content = part if isinstance(part, bytes) else repr(part).encode("utf-8", "replace")
        found.update(len(content).to_bytes(8, "little") + content)
    return found.digest() + b"."


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
