"""Probes against scikit-learn on real digits."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from amodal.metrics.probe import fit_multinomial, knn_probe, linear_probe, scores


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return (
        torch.tensor(x[:1200]),
        torch.tensor(y[:1200]),
        torch.tensor(x[1200:]),
        torch.tensor(y[1200:]),
    )


@pytest.mark.parametrize("penalty", [1e-2, 1.0])
def test_the_fit_is_the_optimum_that_scikit_learn_finds(digits, penalty):
    x = StandardScaler().fit_transform(digits[0].numpy())[:300]
    y = digits[1].numpy()[:300]
    theirs = LogisticRegression(C=1 / (penalty * len(x)), tol=1e-10, max_iter=5000).fit(x, y)
    ours = fit_multinomial(torch.tensor(x), torch.tensor(y), 10, penalty)
    got = scores(torch.tensor(x), ours).softmax(1).numpy()
    np.testing.assert_allclose(got, theirs.predict_proba(x), atol=2e-4)


def test_accuracy_on_digits_is_that_of_scikit_learn(digits):
    train_x, train_y, test_x, test_y = digits
    result = linear_probe(*digits, penalties=[1e-2])
    scaler = StandardScaler().fit(train_x)
    theirs = LogisticRegression(C=1 / (1e-2 * len(train_x)), tol=1e-8, max_iter=5000)
    theirs.fit(scaler.transform(train_x), train_y)
    want = theirs.score(scaler.transform(test_x), test_y)
    assert result["top1"] == pytest.approx(want, abs=1 / len(test_y))
    assert result.metrics["top1"].low < want < result.metrics["top1"].high
    assert result.confusion.sum() == len(test_y)


def test_the_penalty_is_picked_without_looking_at_the_test_rows(digits):
    train_x, train_y, test_x, test_y = (t[:300] for t in digits)
    wrong = (test_y + 1) % 10
    grid = [1e-3, 1e-1, 1e3]
    a = linear_probe(train_x, train_y, test_x, test_y, penalties=grid, bootstrap=0)
    b = linear_probe(train_x, train_y, test_x * 3 + 1, wrong, penalties=grid, bootstrap=0)
    assert a.chosen["penalty"] == b.chosen["penalty"] != 1e3
    assert a["top1"] > 0.8


def test_labels_without_a_relation_score_chance():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(600, 10, generator=g), torch.randint(0, 4, (600,), generator=g)
    result = linear_probe(x[:300], y[:300], x[300:], y[300:], bootstrap=0)
    # Standard error of chance 0.25 on 300 rows is 0.025; four of them.
    assert abs(result["top1"] - 0.25) < 0.1


def test_scale_shift_and_constant_features_change_nothing(digits):
    train_x, train_y, test_x, test_y = (t[:200] for t in digits)
    plain = linear_probe(train_x, train_y, test_x, test_y, penalties=[0.1], bootstrap=0)
    moved = linear_probe(
        torch.cat([train_x * 100 - 7, torch.full((200, 1), 3.3)], 1),
        train_y,
        torch.cat([test_x * 100 - 7, torch.full((200, 1), 5.5)], 1),
        test_y,
        penalties=[0.1],
        bootstrap=0,
    )
    assert plain["top1"] == pytest.approx(moved["top1"], abs=1 / 200)


def test_neighbours_vote_as_in_scikit_learn(digits):
    train_x, train_y, test_x, test_y = digits
    result = knn_probe(*digits, k=1, bootstrap=100)
    theirs = KNeighborsClassifier(1, metric="cosine").fit(train_x, train_y)
    assert result["top1"] == pytest.approx(theirs.score(test_x, test_y))
    two = knn_probe(train_x, train_y % 2, test_x, test_y % 2, k=7, bootstrap=0)
    theirs = KNeighborsClassifier(7, metric="cosine").fit(train_x, train_y % 2)
    assert two["top1"] == pytest.approx(theirs.score(test_x, test_y % 2))


def test_weighted_votes_prefer_the_nearer_neighbours():
    train = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.8, 0.6]])
    y = torch.tensor([0, 1, 1])
    test, want = torch.tensor([[1.0, 0.05]]), torch.tensor([0])
    assert knn_probe(train, y, test, want, k=3, bootstrap=0)["top1"] == 0.0
    assert knn_probe(train, y, test, want, k=3, temperature=0.05, bootstrap=0)["top1"] == 1.0


def test_a_constant_embedding_makes_the_vote_that_of_the_class_sizes():
    y = torch.tensor([0, 1, 0, 1])
    result = knn_probe(torch.ones(4, 5), y, torch.ones(4, 5), y, k=1, bootstrap=0)
    assert result["top1"] == pytest.approx(0.5)


def test_classes_unseen_in_training_are_never_right(digits):
    train_x, train_y, test_x, test_y = digits
    few = train_y < 8
    result = linear_probe(train_x[few], train_y[few], test_x, test_y, penalties=[0.01], bootstrap=0)
    assert result.chosen["unseen_rows"] == int((test_y >= 8).sum())
    assert result["top1"] <= float((test_y < 8).double().mean())
    assert result.confusion.shape == (8, 8)


def test_bad_input_is_refused(digits):
    train_x, train_y, test_x, test_y = (t[:20] for t in digits)
    with pytest.raises(ValueError, match="two classes"):
        linear_probe(train_x, torch.zeros(20, dtype=torch.int64), test_x, test_y)
    with pytest.raises(ValueError, match="widths differ"):
        linear_probe(train_x[:, :5], train_y, test_x, test_y)
    with pytest.raises(ValueError, match="as many labels"):
        linear_probe(train_x, train_y[:3], test_x, test_y)
    with pytest.raises(ValueError, match=r"1…20, got 21"):
        knn_probe(train_x, train_y, test_x, test_y, k=21)
    with pytest.raises(ValueError, match="not finite"):
        linear_probe(train_x * torch.nan, train_y, test_x, test_y)
