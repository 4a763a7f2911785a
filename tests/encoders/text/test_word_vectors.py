"""Word vectors from co-occurrence."""

import numpy as np
import pytest
import torch

from amodal.encoders.text.word_vectors import SMOOTHING, cooccurrence_vectors


def test_two_words_for_one_thing_are_neighbours():
    # 2 and 3 never share a document, but stand beside the same words.
    documents = [[0, 2, 5], [0, 3, 5], [0, 2, 6], [0, 3, 6], [1, 4, 7], [1, 4, 8]] * 3
    z = cooccurrence_vectors(documents, 9, 4)
    assert z[2] @ z[3] > 0.9
    assert abs(z[2] @ z[4]) < 0.1


def test_their_products_are_the_information_of_a_dense_reference():
    rng = np.random.default_rng(0)
    documents = [rng.integers(0, 12, 5).tolist() for _ in range(200)]
    counts = np.zeros((12, 12))
    for ids in documents:
        for a in set(ids):
            for b in set(ids):
                counts[a, b] += a != b
    word = counts.sum(1) / counts.sum()
    context = counts.sum(0) ** SMOOTHING / (counts.sum(0) ** SMOOTHING).sum()
    expected = np.zeros_like(counts)
    for a in range(12):
        for b in range(12):
            if counts[a, b]:
                joint = counts[a, b] / counts.sum()
                expected[a, b] = max(0.0, np.log(joint / word[a] / context[b]))
    left, singular, _ = np.linalg.svd(expected)
    reference = left[:, :6] * np.sqrt(singular[:6])
    reference /= np.linalg.norm(reference, axis=1, keepdims=True)
    z = cooccurrence_vectors(documents, 12, 6).numpy()
    np.testing.assert_allclose(z @ z.T, reference @ reference.T, atol=1e-5)


def test_unknown_and_special_tokens_are_zero_and_the_width_may_exceed_the_vocabulary():
    z = cooccurrence_vectors([[1, 2, 3], [1, 2]], 6, 16, special_ids=frozenset({1}))
    assert z.shape == (6, 16)
    assert torch.equal(z.norm(dim=1) > 0, torch.tensor([False, False, True, True, False, False]))
    assert torch.equal(cooccurrence_vectors([], 4, 2), torch.zeros(4, 2))


@pytest.mark.parametrize("dim", [2, 8, 15, 22, 23, 24, 30])
def test_the_same_documents_give_the_same_vectors(dim):
    rng = np.random.default_rng(1)
    for _ in range(20):
        documents = [rng.integers(0, rng.integers(2, 24), 2).tolist() for _ in range(10)]
        first, *others = (cooccurrence_vectors(documents, 24, dim) for _ in range(3))
        assert all(torch.equal(first, other) for other in others)


def test_a_large_vocabulary_gives_the_same_vectors_each_time():
    rng = np.random.default_rng(0)
    documents = [rng.zipf(1.5, 12).clip(max=1999).tolist() for _ in range(3000)]
    first, second = (cooccurrence_vectors(documents, 2000, 16) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("dim", [39, 40, 60])
def test_a_width_of_the_whole_vocabulary_keeps_all_information(dim):
    rng = np.random.default_rng(0)
    documents = [rng.integers(0, 40, 6).tolist() for _ in range(300)]
    z = cooccurrence_vectors(documents, 40, dim)
    assert torch.equal(z, cooccurrence_vectors(documents, 40, dim))
    whole = cooccurrence_vectors(documents, 40, 60)
    atol = 0.1 if dim < 40 else 1e-5  # without the least of the singular values
    torch.testing.assert_close(z @ z.T, whole @ whole.T, atol=atol, rtol=0)
