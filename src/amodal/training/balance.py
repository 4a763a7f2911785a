"""Rows of a source by the inputs that they have values of, for batches of every combination."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from amodal.data.record import BrokenRecordError, Source
from amodal.modalities.registry import modality
from amodal.models.inputs import HasInputs

Combination = tuple[str, ...]


def rows_by_inputs(model: HasInputs, source: Source) -> dict[Combination, np.ndarray]:
    """Inputs with values -> the numbers of the rows that have just these; nothing is decoded.

    Rows that cannot be read are among those of the most frequent combination: training lists them
    when it draws them.

    Examples:
        >>> from types import SimpleNamespace
        >>> class Source:
        ...     records = [{"text": ["a"], "word": ["b"]}, {"text": ["c"]}, {"text": ["d"]}]
        ...     def __len__(self):
        ...         return 3
        ...     def __getitem__(self, i):
        ...         return {"id": str(i), "origin": f"row {i}", **self.records[i]}
        >>> model = SimpleNamespace(types={"text": "text", "word": "text"}, preprocessors={})
        >>> {inputs: rows.tolist() for inputs, rows in rows_by_inputs(model, Source()).items()}
        {('text',): [1, 2], ('text', 'word'): [0]}
    """
    found: dict[Combination, list[int]] = defaultdict(list)
    unreadable: list[int] = []
    kinds = {name: modality(kind) for name, kind in model.types.items()}
    for row in range(len(source)):
        try:
            record = source[row]
            there = tuple(
                name
                for name, kind in kinds.items()
                if kind.values(name, model.preprocessors.get(name), record)
            )
        except BrokenRecordError:
            unreadable.append(row)
        else:
            found[there].append(row)
    if unreadable:
        most = max(found, key=lambda inputs: len(found[inputs]), default=())
        found[most] += unreadable
    return {inputs: np.array(sorted(found[inputs])) for inputs in sorted(found)}
