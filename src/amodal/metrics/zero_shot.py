"""Zero-shot classification: the class whose prompts are nearest to the image."""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.metrics.classification import ClassificationResult, top_k_accuracy
from amodal.metrics.retrieval import checked, distinct_rows, scores_of

# Prompt templates; an ensemble of them is more accurate than a single one.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "en": (
        "{}",
        "a picture of {}",
        "a photo of a {}",
        "a close view of the {}",
        "a {} seen from far away",
        "a blurry photo of a {}",
        "a bright photo of the {}",
        "a dark photo of the {}",
        "a drawing of a {}",
        "there is a {} in this picture",
        "one {} among other things",
        "several of them: {}",
    ),
    "zh": (
        "{}",
        "一张{}的图片",
        "一张{}的照片",
        "近看{}",
        "远处的{}",
        "一张模糊的{}照片",
        "明亮的{}照片",
        "昏暗的{}照片",
        "一幅{}的画",
        "图里有{}",
        "许多东西中的一个{}",
        "好几个{}",
    ),
}
CHUNK_BYTES = 64 << 20


def class_embeddings(text: Tensor) -> Tensor:
    """One unit vector per class: the mean embedding of its prompts, normalised.

    Args:
        text: (C, T, E) unit-norm embeddings of T prompts of each of C classes.

    Returns:
        (C, E) unit-norm rows, float32 or wider.

    Raises:
        ValueError: wrong shape, or the mean of the prompts of a class is 0.

    References:
        Radford et al. 2021, arXiv:2103.00020, section 3.1.4.

    Examples:
        >>> import torch
        >>> from amodal.metrics import class_embeddings
        >>> prompts = torch.eye(4).reshape(2, 2, 4)  # two classes, two prompts of each
        >>> class_embeddings(prompts)
        tensor([[0.7071, 0.7071, 0.0000, 0.0000],
                [0.0000, 0.0000, 0.7071, 0.7071]])
    """
    if text.ndim != 3 or 0 in text.shape:
        raise ValueError(f"expected (C, T, E) embeddings, got {tuple(text.shape)}")
    mean = text.to(torch.promote_types(text.dtype, torch.float32)).mean(1)
    norm = mean.norm(dim=1, keepdim=True)
    if not bool((norm > 1e-6).all()):
        bad = int((~(norm[:, 0] > 1e-6)).nonzero()[0])
        raise ValueError(f"class {bad}: the mean of its {text.shape[1]} prompts is 0")
    return mean / norm


@torch.no_grad()
def zero_shot_metrics(
    image: Tensor,
    classes: Tensor,
    labels: Tensor,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
) -> ClassificationResult:
    """Accuracy of the nearest class; ties count by expectation, so a constant scores chance.

    Args:
        image: (N, E) unit-norm embeddings to classify.
        classes: (C, E) unit-norm embeddings, see `class_embeddings`.
        labels: (N,) int64 in [0, C).
        bootstrap: resamples for the 95 % intervals; 0 leaves them out.
        seed: of the resamples.

    Raises:
        ValueError: shapes or labels do not fit, or an embedding is not finite.

    References:
        Radford et al. 2021, arXiv:2103.00020, section 3.1.

    Examples:
        >>> import torch
        >>> from amodal.metrics import zero_shot_metrics
        >>> image, classes = torch.eye(3)[[0, 1, 1]], torch.eye(3)[:2]
        >>> result = zero_shot_metrics(image, classes, labels=torch.tensor([0, 1, 0]), bootstrap=0)
        >>> round(result["top1"], 3)
        0.667
    """
    image, classes = checked("image", image), checked("classes", classes)
    if image.shape[1] != classes.shape[1]:
        raise ValueError(f"image width {image.shape[1]} is not class width {classes.shape[1]}")
    if labels.shape != image.shape[:1] or len(image) == 0:
        raise ValueError(f"{len(image)} images need as many labels, got {tuple(labels.shape)}")
    if int(labels.min()) < 0 or int(labels.max()) >= len(classes):
        raise ValueError(
            f"labels must lie in 0…{len(classes) - 1}, got {int(labels.min())}…{int(labels.max())}"
        )
    distinct, place = distinct_rows(classes)
    rows = max(1, CHUNK_BYTES // (image.element_size() * len(classes)))
    scores = torch.cat(
        [scores_of(part, distinct, place).cpu() for part in torch.split(image, rows)]
    )
    return top_k_accuracy(scores, labels, bootstrap=bootstrap, seed=seed)
