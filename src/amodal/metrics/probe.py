"""Linear and k-nearest-neighbour probes of frozen embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.metrics.classification import ClassificationResult, top_k_accuracy
from amodal.metrics.retrieval import checked, distinct_rows, scores_of

PENALTIES = tuple(10.0**e for e in range(-6, 2))
CHUNK_BYTES = 64 << 20


def linear_probe(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    *,
    penalties: Sequence[float] = PENALTIES,
    validation: float = 0.2,
    bootstrap: int = 1000,
    seed: int = 0,
) -> ClassificationResult:
    """Test accuracy of a linear classifier fitted on frozen embeddings.

    Features are standardised with the mean and standard deviation of the training rows. The
    strength of the L2 penalty is selected on a part of the training rows, drawn class by class; the
    classifier is then fitted on all of them. Test rows are only scored.

    Args:
        train_x: (N, D) embeddings.
        train_y: (N,) int64 classes.
        test_x: (T, D) embeddings.
        test_y: (T,) int64; a class that does not occur in training is never predicted.
        penalties: candidates for λ in mean cross-entropy + λ/2 |W|²; a single one is used as is.
        validation: share of the training rows on which λ is selected.
        bootstrap: resamples for the 95 % intervals; 0 leaves them out.
        seed: of the validation rows and of the resamples.

    Returns:
        Accuracies of the test rows, with `penalty` and `unseen_rows` (test rows of classes
        that do not occur in training) in `chosen`. Classes of `confusion` are those of training,
        sorted.

    Raises:
        ValueError: shapes do not fit, an embedding is not finite, or there is only one class.

    References:
        Alain & Bengio 2016, arXiv:1610.01644.

    Examples:
        >>> import torch
        >>> from amodal.metrics import linear_probe
        >>> labels = torch.arange(60) % 2
        >>> z = torch.randn(60, 8) + 4 * labels[:, None]
        >>> result = linear_probe(z[:40], labels[:40], z[40:], labels[40:], bootstrap=0)
        >>> result["top1"], sorted(result.chosen)
        (1.0, ['penalty', 'unseen_rows'])
    """
    _check(train_x, train_y, test_x, test_y)
    train_x, test_x = checked("train_x", train_x).double(), checked("test_x", test_x).double()
    classes, target = torch.unique(train_y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"a probe needs two classes or more, got {classes.tolist()}")
    if len(penalties) == 0 or min(penalties) < 0:
        raise ValueError(f"penalties must be one or more numbers >= 0, got {list(penalties)}")
    penalty = penalties[0]
    if len(penalties) > 1:
        held = _held_out(target, validation, seed)
        fit_x, held_x = _standardised(train_x[~held], train_x[held])
        accuracy, weights = [], None
        strong_first = sorted(penalties, reverse=True)
        for candidate in strong_first:  # warm start from the previous fit
            weights = fit_multinomial(fit_x, target[~held], len(classes), candidate, weights)
            right = scores(held_x, weights).argmax(1) == target[held]
            accuracy.append(float(right.double().mean()))
        penalty = strong_first[accuracy.index(max(accuracy))]  # of equals the strongest
    train_x, test_x = _standardised(train_x, test_x)
    weights = fit_multinomial(train_x, target, len(classes), penalty)
    labels = _places(test_y, classes)
    return top_k_accuracy(
        scores(test_x, weights),
        labels,
        bootstrap=bootstrap,
        seed=seed,
        chosen={"penalty": penalty, "unseen_rows": int((labels < 0).sum())},
    )


def knn_probe(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    *,
    k: int = 20,
    temperature: float | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> ClassificationResult:
    """Test accuracy of a vote among the k nearest training rows by cosine.

    Training rows tied at rank k share the remaining votes.

    Args:
        train_x: (N, D) embeddings.
        train_y: (N,) int64 classes.
        test_x: (T, D) embeddings.
        test_y: (T,) int64.
        k: neighbours; at most N.
        temperature: votes weigh exp(cosine / temperature); None: all weigh the same.
        bootstrap: resamples for the 95 % intervals; 0 leaves them out.
        seed: of the resamples.

    Raises:
        ValueError: shapes do not fit, an embedding is not finite, or k is not in 1…N.

    References:
        Wu et al. 2018, arXiv:1805.01978, section 3.4 (weighted votes).

    Examples:
        >>> import torch
        >>> from amodal.metrics import knn_probe
        >>> labels = torch.arange(60) % 2
        >>> z = torch.randn(60, 8) + 4 * (2 * labels[:, None] - 1)
        >>> knn_probe(z[:40], labels[:40], z[40:], labels[40:], k=5, bootstrap=0)["top1"]
        1.0
    """
    _check(train_x, train_y, test_x, test_y)
    if not 1 <= k <= len(train_x):
        raise ValueError(f"k must lie in 1…{len(train_x)}, got {k}")
    if temperature is not None and not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    gallery = F.normalize(checked("train_x", train_x), dim=1)
    query = F.normalize(checked("test_x", test_x), dim=1)
    classes, target = torch.unique(train_y, return_inverse=True)
    member = F.one_hot(target, len(classes)).to(gallery.dtype)  # (N, C)
    distinct, place = distinct_rows(gallery)
    rows = max(1, CHUNK_BYTES // (gallery.element_size() * len(gallery)))
    votes = []
    for part in torch.split(query, rows):
        cosine = scores_of(part, distinct, place)  # (q, N)
        nearest = cosine.topk(k, dim=1).values
        border = nearest[:, -1:]
        inside, tied = cosine > border, cosine == border
        left = k - inside.sum(1, keepdim=True)
        share = inside + tied * (left / tied.sum(1, keepdim=True))
        if temperature is not None:
            share = share * ((cosine - nearest[:, :1]) / temperature).exp()
        votes.append(share.to(gallery.dtype) @ member)
    labels = _places(test_y, classes)
    return top_k_accuracy(
        torch.cat(votes),
        labels,
        bootstrap=bootstrap,
        seed=seed,
        chosen={"k": k, "unseen_rows": int((labels < 0).sum())},
    )


def fit_multinomial(
    x: Tensor, target: Tensor, classes: int, penalty: float, init: Tensor | None = None
) -> Tensor:
    """Weights that minimise mean cross-entropy + penalty/2 |W|²; the bias is not penalised.

    Args:
        x: (N, D) float64 features.
        target: (N,) int64 in [0, classes).
        classes: C.
        penalty: λ.
        init: (D + 1, C) initial weights; None: zeros.

    Returns:
        (D + 1, C) float64; the last row is the bias.
    """
    with torch.enable_grad():
        weights = (
            torch.zeros(x.shape[1] + 1, classes, dtype=x.dtype, device=x.device)
            if init is None
            else init.clone()
        ).requires_grad_()
        optimizer = torch.optim.LBFGS(
            [weights],
            max_iter=500,
            history_size=20,
            tolerance_grad=1e-6,
            tolerance_change=1e-12,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(scores(x, weights), target)
            loss = loss + penalty / 2 * weights[:-1].square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weights.detach()


def scores(x: Tensor, weights: Tensor) -> Tensor:
    """(N, C) scores of (N, D) features under (D + 1, C) weights."""
    return x @ weights[:-1] + weights[-1]


def _check(train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor) -> None:
    for name, x, y in (("train", train_x, train_y), ("test", test_x, test_y)):
        if y.shape != x.shape[:1] or len(x) == 0:
            raise ValueError(
                f"{name}: {tuple(x.shape)} embeddings need as many labels, got {tuple(y.shape)}"
            )
    if train_x.shape[1:] != test_x.shape[1:]:
        raise ValueError(f"widths differ: train {tuple(train_x.shape)}, test {tuple(test_x.shape)}")


def _standardised(train: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    mean, deviation = train.mean(0), train.std(0, correction=0)
    # A constant feature has no information; dividing by rounding noise would amplify it.
    deviation = torch.where(deviation > 1e-7 * (1 + mean.abs()), deviation, 1.0)
    return (train - mean) / deviation, (other - mean) / deviation


def _held_out(target: Tensor, share: float, seed: int) -> Tensor:
    """(N,) bool; about `share` of every class, but never all of it."""
    generator = torch.Generator().manual_seed(seed)
    held = torch.zeros(len(target), dtype=torch.bool, device=target.device)
    for i in range(int(target.max()) + 1):
        rows = (target == i).nonzero()[:, 0]
        order = torch.randperm(len(rows), generator=generator).to(rows.device)
        held[rows[order[: min(round(share * len(rows)), len(rows) - 1)]]] = True
    if not bool(held.any()):
        raise ValueError(
            f"{len(target)} training rows leave none to select the penalty on: give a single "
            "penalty, or more rows per class"
        )
    return held


def _places(labels: Tensor, classes: Tensor) -> Tensor:
    """Place of every label among the sorted classes; -1 where it is not there."""
    place = torch.searchsorted(classes, labels).clamp_max(len(classes) - 1)
    return torch.where(classes[place] == labels, place, -1)
