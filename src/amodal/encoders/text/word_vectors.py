"""Word vectors from the co-occurrence of words in the training captions."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

SMOOTHING = 0.75  # exponent on the counts of contexts, so that rare ones do not dominate

SMALLEST_SPACE = 20  # dimensions of a Krylov space of `svds`, at least


def cooccurrence_vectors(
    documents: Iterable[Iterable[int]],
    vocab_size: int,
    dim: int,
    *,
    special_ids: frozenset[int] = frozenset(),
) -> Tensor:
    """Unit word vectors from the truncated SVD of positive pointwise mutual information.

    PPMI of tokens that share a document, max(0, ln P(w, c) / (P(w) P(c)^0.75)), truncated to its
    `dim` largest singular values: U S^½.

    Args:
        documents: token ids of each; all captions of one image make one document, so that two
            words for the same thing share theirs.
        vocab_size: V.
        dim: D.
        special_ids: tokens to ignore.

    Returns:
        (V, D) float32; rows have norm 1, or are 0 where a token never occurs with another.

    References:
        Levy & Goldberg 2014, "Neural word embedding as implicit matrix factorization".
        Levy et al. 2015, TACL 3, 211-225 (smoothed contexts, square root of S).

    Examples:
        >>> from amodal.encoders import cooccurrence_vectors
        >>> documents = [[0, 1], [0, 1], [2, 3], [2, 3]]  # token ids
        >>> vectors = cooccurrence_vectors(documents, vocab_size=4, dim=2)
        >>> vectors.shape
        torch.Size([4, 2])
    """
    from scipy import sparse  # slow to import, and needed before training alone
    from scipy.sparse.linalg import svds

    rows: list[int] = []
    columns: list[int] = []
    count = 0
    for count, ids in enumerate(documents, start=1):
        different = set(ids) - special_ids
        rows.extend(different)
        columns.extend([count - 1] * len(different))
    incidence = sparse.csr_array(
        (np.ones(len(rows)), (rows, columns)), shape=(vocab_size, max(1, count))
    )
    together = (incidence @ incidence.T).tocoo()
    apart = together.row != together.col
    row, column, value = together.row[apart], together.col[apart], together.data[apart]
    vectors = torch.zeros(vocab_size, dim)
    if len(value) == 0:
        return vectors
    occurrence = np.bincount(row, value, minlength=vocab_size)
    word = occurrence / occurrence.sum()
    context = occurrence**SMOOTHING / (occurrence**SMOOTHING).sum()
    information = np.log(value / value.sum() / (word[row] * context[column]))
    matrix = sparse.csr_array(
        (information.clip(min=0), (row, column)), shape=(vocab_size, vocab_size)
    )
    kept = min(dim, vocab_size)
    krylov = max(2 * kept + 1, SMALLEST_SPACE)  # dimensions of the space that `svds` searches
    if 2 * krylov >= (matrix.sum(axis=1) > 0).sum():
        # It could be used up, and `svds` would go on in directions that it draws anew each time.
        left, singular, _ = np.linalg.svd(matrix.toarray())
        left, singular = left[:, :kept], singular[:kept]
    else:
        # From a fixed start, so that the vectors are the same each time.
        left, singular, _ = svds(matrix, k=kept, v0=np.ones(vocab_size))
    found = torch.from_numpy((left * np.sqrt(singular)).astype(np.float32))
    norm = found.norm(dim=1, keepdim=True)
    known = norm > 1e-6 * norm.max()
    vectors[:, :kept] = torch.where(known, found / norm.clamp_min(1e-12), 0.0)
    return vectors
