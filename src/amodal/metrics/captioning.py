"""Captioning metrics: BLEU, ROUGE-L, CIDEr and CIDEr-D, as computed by coco-caption.

All take tokens (see `caption_tokens`): one caption per image, and one or more references.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from amodal.metrics.bootstrap import Estimate, flatten, intervals, resampled

Tokens = Sequence[str]
Gram = tuple[str, ...]

ORDERS = 4  # n-grams of one to four tokens
BETA = 1.2  # weight of recall in ROUGE-L
SIGMA = 6.0  # of the length penalty of CIDEr-D, in tokens
# The constants of coco-caption against division by zero. They change scores by less than 1e-8,
# except that captions without a common n-gram get a tiny BLEU instead of 0.
TINY, SMALL = 1e-15, 1e-9


@dataclass(frozen=True)
class CaptionScores:
    """Metrics of a set of captions, each with a 95 % bootstrap interval if requested.

    Args:
        metrics: bleu_1 to bleu_4, rouge_l, cider, cider_d.
        per_image: the same for each image, (P,) float64. Corpus BLEU is not their mean.
        images: P.

    Examples:
        >>> from amodal.metrics import caption_scores
        >>> scores = caption_scores([["a", "dog"], ["a", "cat"]], [[["a", "dog"]], [["a", "cat"]]])
        >>> round(scores["rouge_l"], 6), sorted(scores.to_dict())[-2:]
        (1.0, ['images', 'rouge_l'])
    """

    metrics: dict[str, Estimate]
    per_image: dict[str, Tensor]
    images: int

    def __getitem__(self, name: str) -> float:
        return self.metrics[name].value

    def to_dict(self) -> dict[str, float]:
        """Flat metrics: `bleu_1`, `bleu_1/low`, `bleu_1/high`, ..., and the number of images."""
        return flatten(self.metrics) | {"num_images": self.images}


@dataclass(frozen=True)
class DocumentFrequency:
    """Number of images, of `documents`, in whose references each n-gram occurs.

    Examples:
        >>> frequency = DocumentFrequency.of([[["a", "dog"]], [["a", "cat"]]])
        >>> frequency.counts[("a",)], frequency.weight(("a",))
        (2, 0.0)
    """

    counts: Mapping[Gram, float]
    documents: int

    @classmethod
    def of(cls, references: Sequence[Sequence[Tokens]]) -> DocumentFrequency:
        """Document frequencies of the references of each image; an image counts once."""
        counts: Counter[Gram] = Counter()
        for texts in references:
            counts.update({gram for text in texts for gram in _grams(text)})
        return cls(counts, len(references))

    def weight(self, gram: Gram) -> float:
        """Inverse document frequency, ln(documents / count); unseen n-grams have count 1."""
        return math.log(self.documents) - math.log(max(1.0, self.counts.get(gram, 0.0)))


def caption_scores(
    captions: Sequence[Tokens],
    references: Sequence[Sequence[Tokens]],
    *,
    frequency: DocumentFrequency | None = None,
    bootstrap: int = 0,
    seed: int = 0,
) -> CaptionScores:
    """All metrics of this module.

    Args:
        captions: tokens of the caption of each of P images.
        references: for each image the tokens of its references, at least one.
        frequency: for CIDEr; None: computed from `references`.
        bootstrap: resamples of images for the intervals; 0: no intervals. Document frequencies are
            not recomputed.
        seed: of the resamples.

    Raises:
        ValueError: there are no images, an image has no reference, or text was not tokenized.

    Examples:
        >>> from amodal.metrics import caption_scores
        >>> references = [[["a", "red", "star"]], [["a", "blue", "ring"]]]
        >>> scores = caption_scores([["a", "red", "star"], ["a", "red", "ring"]], references)
        >>> round(scores["bleu_1"], 4), round(scores["cider"], 4)
        (0.8333, 4.375)
    """
    counts = _bleu_counts(captions, references)
    by_image = _bleu_of(counts)
    columns = {f"bleu_{n}": by_image[:, n - 1] for n in range(1, ORDERS + 1)}
    columns["rouge_l"] = rouge_l(captions, references)
    columns["cider"], columns["cider_d"] = _both_ciders(
        captions, references, _usable(frequency, references)
    )
    # BLEU of a set is a function of sums of counts; the other metrics are means.
    means = torch.stack([columns[name] for name in ("rouge_l", "cider", "cider_d")], dim=1)
    generator = torch.Generator().manual_seed(seed)
    every = torch.arange(len(counts))
    values, draws = resampled(torch.cat([counts, means], dim=1), every, bootstrap, generator)

    def with_bleu(rows: Tensor) -> Tensor:
        sums = rows[:, : counts.shape[1]] * len(counts)
        return torch.cat([_bleu_of(sums), rows[:, counts.shape[1] :]], dim=1)

    return CaptionScores(
        metrics=intervals(list(columns), with_bleu(values[None])[0], with_bleu(draws)),
        per_image=columns,
        images=len(counts),
    )


def bleu(captions: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> Tensor:
    """BLEU-1 to BLEU-4 of a set of captions: (4,) float64.

    With c_n the n-grams of all captions that occur in their references (each at most as often
    as in the reference where it is most frequent) and g_n all their n-grams,

        BLEU_N = min(1, exp(1 - r / l)) (prod_{n <= N} c_n / g_n)^(1/N)

    where l is the length of all captions and r the sum over captions of the length of the
    reference with the closest length, the shorter one of two. c_n = 0 is replaced by coco-caption's
    1e-15; there is no other smoothing.

    Examples:
        >>> from amodal.metrics import bleu
        >>> bleu([["a", "red", "star"]], [[["a", "red", "ring"]]])[:2].round(decimals=4).tolist()
        [0.6667, 0.5774]

    References:
        Papineni et al. 2002, "BLEU: a method for automatic evaluation of machine translation".
        Chen et al. 2015, arXiv:1504.00325, section 3.1.
    """
    return _bleu_of(_bleu_counts(captions, references).sum(0, keepdim=True))[0]


def rouge_l(captions: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> Tensor:
    """ROUGE-L of each image: (P,) float64.

    With the longest common subsequence of caption and reference, P = its length over the
    caption's and R = its length over the reference's, both the greatest over the references
    (possibly different ones): (1 + b^2) P R / (R + b^2 P), b = 1.2. A text without tokens
    counts as one empty token, as in coco-caption.

    Examples:
        >>> from amodal.metrics import rouge_l
        >>> rouge_l([["a", "red", "star"]], [[["a", "star"]]]).round(decimals=4).tolist()
        [0.8299]

    References:
        Lin 2004, "ROUGE: a package for automatic evaluation of summaries", section 3.
        Chen et al. 2015, arXiv:1504.00325, section 3.2.
    """
    _check(captions, references)
    scores = []
    for caption, texts in zip(captions, references, strict=True):
        caption = caption or [""]
        texts = [text or [""] for text in texts]
        common = [_common_subsequence(caption, text) for text in texts]
        precision = max(common) / len(caption)
        recall = max(c / len(text) for c, text in zip(common, texts, strict=True))
        below = recall + BETA**2 * precision
        scores.append((1 + BETA**2) * precision * recall / below if below else 0.0)
    return torch.tensor(scores, dtype=torch.float64)


def cider(
    captions: Sequence[Tokens],
    references: Sequence[Sequence[Tokens]],
    *,
    variant: Literal["plain", "d"] = "d",
    frequency: DocumentFrequency | None = None,
) -> Tensor:
    """CIDEr or CIDEr-D of each image: (P,) float64. The score of a set is their mean.

    Texts become vectors with count times `DocumentFrequency.weight` for each n-gram. The similarity
    of caption and reference is averaged over the lengths n from 1 to 4 and over the references,
    and multiplied by 10:

        plain: cos(c, r).
        d:     exp(-(l_c - l_r)^2 / 72) sum_g min(c_g, r_g) r_g / (|c| |r|).

    where l is the number of tokens. As in the authors' code, words are not stemmed and both
    variants have the factor 10. coco-caption and its Python package report CIDEr-D as "CIDEr".

    Args:
        variant: "plain" or "d".
        frequency: None: computed from `references`. With one image every weight and every score
            is then 0, with a warning.

    Raises:
        ValueError: as `caption_scores`, or an unknown variant.

    Examples:
        >>> from amodal.metrics import cider
        >>> references = [[["a", "red", "star"]], [["a", "blue", "ring"]]]
        >>> cider([["a", "red", "star"], ["a", "ring"]], references).round(decimals=4).tolist()
        [7.5, 1.7434]

    References:
        Vedantam et al. 2015, arXiv:1411.5726, eqs. 1 to 5.
    """
    _check(captions, references)
    if variant not in ("plain", "d"):
        raise ValueError(f'variant must be "plain" or "d", got {variant!r}')
    plain, d = _both_ciders(captions, references, _usable(frequency, references))
    return plain if variant == "plain" else d


def most_typical(references: Sequence[Sequence[Tokens]]) -> list[str]:
    """The reference that has the best mean CIDEr as the caption of all images alike.

    CIDEr is linear in the references, so every distinct one of them is compared with their sum.

    Args:
        references: for each image the tokens of its references, at least one.

    Examples:
        >>> from amodal.metrics.captioning import most_typical
        >>> most_typical([[["a", "red", "star"]], [["a", "red", "ring"]], [["two", "rings"]]])
        ['a', 'red', 'star']
    """
    frequency = DocumentFrequency.of(references)
    vectors = {
        tuple(text): _Vector(text, frequency).normalized() for texts in references for text in texts
    }
    sums: dict[Gram, float] = {}
    for texts in references:
        for text in texts:
            for gram, weight in vectors[tuple(text)].items():
                sums[gram] = sums.get(gram, 0.0) + weight / len(texts)

    def score(text: tuple[str, ...]) -> float:
        return sum(weight * sums[gram] for gram, weight in vectors[text].items())

    best = max(vectors, key=score)
    return list(best)


def _usable(
    frequency: DocumentFrequency | None, references: Sequence[Sequence[Tokens]]
) -> DocumentFrequency:
    if frequency is None:
        frequency = DocumentFrequency.of(references)
    if frequency.documents < 2:
        warnings.warn(
            "CIDEr is 0 for every caption: document frequencies of a single image give every "
            "n-gram the weight 0; evaluate several images at once, or pass `frequency`",
            stacklevel=3,
        )
    return frequency


def _both_ciders(
    captions: Sequence[Tokens],
    references: Sequence[Sequence[Tokens]],
    frequency: DocumentFrequency,
) -> tuple[Tensor, Tensor]:
    """(P,) CIDEr and (P,) CIDEr-D."""
    scores = torch.zeros(len(captions), 2, dtype=torch.float64)
    for row, (caption, texts) in enumerate(zip(captions, references, strict=True)):
        vector = _Vector(caption, frequency)
        pairs = [vector.similarity(_Vector(text, frequency)) for text in texts]
        scores[row] = 10.0 * torch.tensor(pairs, dtype=torch.float64).mean(0)
    return scores[:, 0], scores[:, 1]


class _Vector:
    """Weights of the n-grams of one text, and their norm for each n."""

    def __init__(self, text: Tokens, frequency: DocumentFrequency) -> None:
        counts = _grams(text)
        self.weights = {gram: n * frequency.weight(gram) for gram, n in counts.items()}
        self.length = len(text)
        squares = [0.0] * ORDERS
        for gram, weight in self.weights.items():
            squares[len(gram) - 1] += weight * weight
        self.norms = [math.sqrt(square) for square in squares]

    def similarity(self, reference: _Vector) -> tuple[float, float]:
        """Mean over n of the similarity to a reference, for CIDEr and for CIDEr-D."""
        plain, clipped = [0.0] * ORDERS, [0.0] * ORDERS
        for gram, weight in self.weights.items():
            other = reference.weights.get(gram)
            if other is not None:
                plain[len(gram) - 1] += weight * other
                clipped[len(gram) - 1] += min(weight, other) * other
        norms = [a * b for a, b in zip(self.norms, reference.norms, strict=True)]
        difference = self.length - reference.length
        penalty = math.exp(-(difference**2) / (2 * SIGMA**2))
        return _mean_ratio(plain, norms), penalty * _mean_ratio(clipped, norms)

    def normalized(self) -> dict[Gram, float]:
        """Weights that are not 0, over the norm of the n-grams of their length."""
        weights = self.weights.items()
        return {gram: weight / self.norms[len(gram) - 1] for gram, weight in weights if weight}


def _mean_ratio(products: list[float], norms: list[float]) -> float:
    ratios = [p / n if n else 0.0 for p, n in zip(products, norms, strict=True)]
    return sum(ratios) / ORDERS


def _grams(text: Tokens) -> Counter[Gram]:
    return Counter(
        tuple(text[i : i + n]) for n in range(1, ORDERS + 1) for i in range(len(text) - n + 1)
    )


def _bleu_counts(captions: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> Tensor:
    """(P, 10) float64: matched and all n-grams for each n, length, reference length."""
    _check(captions, references)
    rows = []
    for caption, texts in zip(captions, references, strict=True):
        allowed: Counter[Gram] = Counter()
        for text in texts:
            allowed |= _grams(text)
        matched = [0] * ORDERS
        for gram, count in _grams(caption).items():
            matched[len(gram) - 1] += min(count, allowed[gram])
        length = len(caption)
        closest = min((abs(len(text) - length), len(text)) for text in texts)[1]
        rows.append([*matched, *(max(0, length - n) for n in range(ORDERS)), length, closest])
    return torch.tensor(rows, dtype=torch.float64)


def _bleu_of(counts: Tensor) -> Tensor:
    """(S, 4) BLEU of (S, 10) sums of counts."""
    matched, total, lengths = counts.split([ORDERS, ORDERS, 2], dim=1)
    precision = ((matched + TINY) / (total + SMALL)).cumprod(1)
    roots = precision ** (1.0 / torch.arange(1, ORDERS + 1, dtype=torch.float64))
    ratio = (lengths[:, :1] + TINY) / (lengths[:, 1:] + SMALL)
    return roots * torch.where(ratio < 1, torch.exp(1 - 1 / ratio), 1.0)


def _common_subsequence(a: Tokens, b: Tokens) -> int:
    """Length of the longest common subsequence.

    Bit i of `open_ends` is 0 where the best length grows at token i of a.

    References:
        Hyyrö 2004, "Bit-parallel LCS-length computation revisited".
    """
    positions: dict[str, int] = {}
    for i, token in enumerate(a):
        positions[token] = positions.get(token, 0) | 1 << i
    full = (1 << len(a)) - 1
    open_ends = full
    for token in b:
        matched = open_ends & positions.get(token, 0)
        open_ends = (open_ends + matched | open_ends - matched) & full
    return len(a) - open_ends.bit_count()


def _check(captions: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> None:
    if len(captions) != len(references) or not len(captions):
        raise ValueError(
            f"expected captions and references of the same images, got {len(captions)} "
            f"captions and references of {len(references)} images"
        )
    for row, (caption, texts) in enumerate(zip(captions, references, strict=True)):
        if isinstance(texts, str) or not len(texts):
            raise ValueError(f"image {row}: expected a list of references, got {texts!r}")
        for text in (caption, *texts):
            if isinstance(text, str):
                raise ValueError(
                    f"image {row}: expected tokens, got the text {text[:40]!r}; "
                    "tokenize it with amodal.metrics.caption_tokens.tokenize"
                )
