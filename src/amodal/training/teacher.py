"""Embeddings of the training rows by a teacher: a folder written by `amodal embed`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from amodal.data.batch import key64
from amodal.data.record import DataError

COLUMNS = ["id", "input", "text", "embedding"]


class TeacherEmbeddings:
    """The embeddings of one model, found by the keys of a batch.

    A text is found by its words and any other row by its item, so a caption that augmentation has
    changed is unknown and left out.

    Args:
        folder: written by `amodal embed RUN SOURCE --out FOLDER`.

    Raises:
        DataError: it is not such a folder, or the embedding was stopped half-way.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.dim = self._dim()
        self.known = 0  # rows that were asked for and found
        self.asked = 0
        rows: dict[str, list[np.ndarray]] = {}
        # Input -> key of an item, or of a text, -> place of its row.
        self.by_item: dict[str, dict[int, int]] = {}
        self.by_content: dict[str, dict[int, int]] = {}
        for shard in sorted(self.folder.glob("part-*.parquet")):
            table = pq.read_table(shard, columns=COLUMNS)
            ids, inputs, texts = (table[c].to_pylist() for c in COLUMNS[:3])
            embeddings = table["embedding"].to_numpy()
            for id_, name, text, row in zip(ids, inputs, texts, embeddings, strict=True):
                place = len(rows.setdefault(name, []))
                rows[name].append(row)
                self.by_item.setdefault(name, {}).setdefault(key64(id_), place)
                if text is not None:
                    self.by_content.setdefault(name, {}).setdefault(key64(text), place)
        self.table = {n: torch.from_numpy(np.stack(found)).float() for n, found in rows.items()}

    def rows_of(self, name: str, item: Tensor, content: Tensor | None) -> tuple[Tensor, Tensor]:
        """Embeddings of some rows of an input by the teacher.

        Args:
            name: of the input.
            item: (P,) int64 keys of the rows' items.
            content: (P,) int64 keys of their contents, or None where content has no key.

        Returns:
            (K, dim) float32 embeddings of the known rows, and (K,) int64 positions of these rows.
        """
        places = (self.by_item if content is None else self.by_content).get(name, {})
        keys = (item if content is None else content).tolist()
        self.asked += len(keys)
        found = [(i, places[key]) for i, key in enumerate(keys) if key in places]
        self.known += len(found)
        where = torch.tensor([i for i, _ in found], dtype=torch.int64, device=item.device)
        if not found:
            return torch.zeros(0, self.dim, device=item.device), where
        rows = self.table[name][torch.tensor([j for _, j in found])]
        return rows.to(item.device), where

    def teacher_coverage(self) -> float:
        """Share of the rows since the last call that the teacher has embeddings of."""
        share = self.known / self.asked if self.asked else 0.0
        self.known = self.asked = 0
        return share

    def _dim(self) -> int:
        """Width of the embeddings, after a check that they are complete."""
        file = self.folder / "embeddings.json"
        how = "`amodal embed RUN SOURCE --out FOLDER` writes one"
        try:
            summary = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DataError(f"{self.folder}: holds no embeddings of a teacher; {how}") from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise DataError(f"{file}: cannot be read ({error}); {how}") from None
        if not isinstance(summary, dict) or not isinstance(summary.get("dim"), int):
            raise DataError(f"{file}: `dim`, the width of the embeddings, is missing; {how}")
        if not summary.get("complete"):
            raise DataError(
                f"{self.folder}: the embedding was stopped half-way; run `amodal embed` again"
            )
        return int(summary["dim"])
