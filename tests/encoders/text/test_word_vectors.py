"""Word vectors from co-occurrence."""

import numpy as np
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


def test_the_same_documents_give_the_same_vectors():
    documents = [[i % 7, i % 5, i % 3] for i in range(60)]
    first, second = (cooccurrence_vectors(documents, 8, 4) for _ in range(2))
    assert torch.equal(first, second)
