"""Search without a model: an item is found by the words of another of its captions."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from amodal.data.record import BrokenRecordError, Source
from amodal.evaluators.interpretation import KEYWORDS
from amodal.metrics.retrieval import retrieval_metrics
from amodal.modalities.modality import texts_of

MAX_WORDS = 4096  # the most frequent ones, so that 5,000 items take 80 MB
MAX_ITEMS = 5000


def keyword_search_metrics(
    source: Source, names: Sequence[str], items: Sequence[int], *, seed: int = 0
) -> dict[str, float]:
    """Recall of a TF-IDF search for the first caption of each item with its second one.

    It is what a search engine over captions written by people would reach: a model whose recall
    is lower finds captioned items worse than their words do. Nothing where items have one caption
    each, or where there are more than 5,000.

    Args:
        source: of the items; no media is decoded.
        names: inputs that are texts.
        items: row numbers.
        seed: of the resamples of the intervals.

    Returns:
        Flat `keyword_search/INPUT/recall@1`, 5 and 10 with intervals.

    References:
        Spärck Jones 1972, "A statistical interpretation of term specificity".
    """
    found: dict[str, float] = {}
    for name in names if len(items) <= MAX_ITEMS else ():
        pairs = [texts[:2] for texts in _captions(source, name, items) if len(texts) > 1]
        if len(pairs) > 1:
            recalls = _recalls(pairs, seed)
            found |= {f"{KEYWORDS}/{name}/{key}": value for key, value in recalls.items()}
    return found


def _recalls(pairs: Sequence[Sequence[str]], seed: int) -> dict[str, float]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    # In some scripts a single character is a word.
    vectorizer = TfidfVectorizer(sublinear_tf=True, max_features=MAX_WORDS, token_pattern=r"\w+")
    gallery = vectorizer.fit_transform([first for first, _ in pairs])
    query = vectorizer.transform([second for _, second in pairs])
    item = torch.arange(len(pairs))
    z_query, z_gallery = (torch.from_numpy(z.toarray()).float() for z in (query, gallery))
    result = retrieval_metrics(z_query, z_gallery, item, item, seed=seed).to_dict()
    return {key: value for key, value in result.items() if key.startswith("recall@")}


def _captions(source: Source, name: str, items: Sequence[int]) -> list[list[str]]:
    found = []
    for row in items:
        try:
            found.append(list(dict.fromkeys(texts_of(source[row], name))))
        except BrokenRecordError:
            continue  # listed when the media is read
    return found
