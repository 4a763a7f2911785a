"""Zero-shot figures against hand counts, scikit-learn and chance."""

import math

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, top_k_accuracy_score

from amodal.metrics.zero_shot import TEMPLATES, class_embeddings, zero_shot_metrics


def unit(*shape, seed):
    z = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(z, dim=-1)


def test_figures_agree_with_scikit_learn():
    image, classes = unit(200, 12, seed=0), unit(9, 12, seed=1)
    labels = torch.randint(0, 9, (200,), generator=torch.Generator().manual_seed(2))
    result = zero_shot_metrics(image, classes, labels)
    scores = (image @ classes.T).numpy()
    guess = scores.argmax(1)
    assert result["top1"] == pytest.approx((guess == labels.numpy()).mean())
    assert result["top5"] == pytest.approx(top_k_accuracy_score(labels, scores, k=5))
    assert result["mean_per_class"] == pytest.approx(balanced_accuracy_score(labels, guess))
    assert torch.equal(result.confusion, torch.tensor(confusion_matrix(labels, guess)).double())
    for name in ("top1", "top5", "mean_per_class"):
        estimate = result.metrics[name]
        assert estimate.low <= estimate.value <= estimate.high


def test_the_interval_is_that_of_a_binomial():
    # 100 of 400 right: the normal interval is 0.25 ± 1.96 * sqrt(0.25 * 0.75 / 400).
    labels = torch.zeros(400, dtype=torch.int64)
    image = torch.eye(2)[(torch.arange(400) >= 100).long()]
    estimate = zero_shot_metrics(image, torch.eye(2), labels, bootstrap=4000).metrics["top1"]
    half = 1.96 * math.sqrt(0.25 * 0.75 / 400)
    assert estimate.value == 0.25
    assert estimate.low == pytest.approx(0.25 - half, abs=0.006)
    assert estimate.high == pytest.approx(0.25 + half, abs=0.006)


def test_equal_classes_score_chance_and_share_the_confusion():
    image, classes = unit(30, 16, seed=0), unit(1, 16, seed=1).expand(10, 16)
    labels = torch.arange(30) % 10
    result = zero_shot_metrics(image, classes, labels, bootstrap=0)
    assert result["top1"] == pytest.approx(0.1)
    assert result["top5"] == pytest.approx(0.5)
    torch.testing.assert_close(result.confusion, torch.full((10, 10), 0.3).double())


def test_rare_classes_count_as_much_as_frequent_ones():
    image = torch.eye(2)[torch.zeros(10, dtype=torch.int64)]
    labels = torch.tensor([0] * 9 + [1])
    result = zero_shot_metrics(image, torch.eye(2), labels, bootstrap=0)
    assert result["top1"] == pytest.approx(0.9)
    assert result["mean_per_class"] == pytest.approx(0.5)


def test_the_class_embedding_is_the_direction_of_the_mean():
    text = unit(3, 4, 8, seed=0)
    got = class_embeddings(text)
    want = torch.stack([torch.nn.functional.normalize(t.sum(0), dim=0) for t in text])
    torch.testing.assert_close(got, want)
    with pytest.raises(ValueError, match="class 1"):
        class_embeddings(torch.tensor([[[1.0], [1.0]], [[1.0], [-1.0]]]))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_template_takes_the_class_name(language):
    assert len(set(TEMPLATES[language])) == len(TEMPLATES[language]) >= 10
    assert all(t.format("猫") != t and "猫" in t.format("猫") for t in TEMPLATES[language])


def test_labels_outside_the_classes_are_refused():
    with pytest.raises(ValueError, match="0…1"):
        zero_shot_metrics(torch.eye(3), torch.eye(3)[:2], torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match=r"image.*row 1"):
        zero_shot_metrics(torch.tensor([[1.0], [math.nan]]), torch.ones(2, 1), torch.tensor([0, 1]))
