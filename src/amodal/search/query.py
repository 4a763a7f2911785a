"""From what a person asks to a vector that a store can search with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from amodal.search.description import StoreError
from amodal.search.embed import EmbeddingModel


def query_vector(model: EmbeddingModel, values: Mapping[str, Any]) -> np.ndarray:
    """(E,) mean of the unit embeddings of the parts of a query.

    Args:
        model: what the index was built with.
        values: modality -> the one value of it, such as `{"text": "a red circle"}`.

    Raises:
        StoreError: the model has no encoder for a part.
    """
    for name in values:
        if name not in model.modalities:
            raise StoreError(
                f"the model has no {name} encoder; it takes {', '.join(model.modalities)}"
            )
    parts = [model.encode(**{name: [value]})[0] for name, value in values.items()]
    return np.asarray(np.mean(parts, axis=0))


def returned_modality(asked: str | None, counts: Mapping[str, int], *, alone: str) -> str | None:
    """The modality that a search returns; None for all of them.

    Args:
        asked: by name, or "all"; left out, the search goes across modalities: an image alone
            finds texts, everything else finds images, where the index has them.
        counts: modality -> rows of the index.
        alone: "image" where the query is an image and nothing else, "text" otherwise.
    """
    if asked is not None:
        return None if asked == "all" else asked
    other = "image" if alone == "text" else "text"
    return other if other in counts else None
