"""Checks of texts against the tokenizers of a model: truncated texts, unknown tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from amodal.data.record import BrokenRecordError
from amodal.doctor.finding import Finding
from amodal.doctor.recipe_checks import config_of, place_of
from amodal.doctor.subject import Subject
from amodal.evaluators.vocabulary import LARGE_SHARE, unknown_token_shares
from amodal.modalities.registry import modality
from amodal.models.inputs import collator_of

MAX_TRUNCATED = 0.05  # of the texts
MAX_ITEMS = 1000  # that are read, evenly spaced
COVERED = 99.5  # percentile of the lengths that a better limit covers
LARGE_VOCABULARY = 8000


def truncated(subject: Subject) -> Iterator[Finding]:
    """Texts that are longer than their encoder reads."""
    for name, prepare in _text_inputs(subject).items():
        texts = _texts(subject, name, prepare)
        share = prepare.count_truncated(texts) / max(1, len(texts))
        if share <= MAX_TRUNCATED:
            continue
        rows = prepare.tokenizer(texts, return_attention_mask=False, verbose=False)["input_ids"]
        lengths = np.array([len(row) for row in rows])
        wanted = int(-(-np.percentile(lengths, COVERED) // 8) * 8)
        key = f"{place_of(subject, name)}.{prepare.length_option}"
        yield Finding(
            "truncated_texts",
            "warning",
            key,
            f"{share:.0%} of {len(texts):,} texts have more than {prepare.max_length} tokens (half "
            f"have {np.median(lengths):.0f} or more, the longest {lengths.max()}): their "
            f"{prepare.truncated_end} is not read",
            f"{wanted} tokens hold {COVERED:g} % of the texts",
            {key: wanted},
        )


def unknown_tokens(subject: Subject) -> Iterator[Finding]:
    """Words outside of the vocabulary of a tokenizer."""
    collator = collator_of(subject.inputs)
    sources = {"training": subject.train_source, "validation": subject.opened[1]}
    shares = {
        where: unknown_token_shares(collator, source)
        for where, source in sources.items()
        if source is not None
    }
    for name, prepare in _text_inputs(subject).items():
        found = {where: share[name] for where, share in shares.items() if name in share}
        where = max(found, key=found.__getitem__, default="")
        if not where or found[where] < LARGE_SHARE:
            continue
        key = f"{place_of(subject, name)}.tokenizer"
        larger = {"kind": "trained", "model": "bpe", "vocab_size": LARGE_VOCABULARY}
        fixed = config_of(subject, name).is_pretrained  # with its weights
        yield Finding(
            "unknown_words",
            "warning",
            key,
            f"{found[where]:.0%} of the tokens of the {where} texts are outside of the vocabulary "
            f"of {len(prepare.tokenizer):,} and read as one and the same token",
            "split rare words into pieces that are known, or take a larger vocabulary; with "
            "pretrained weights, take a model for this language",
            {} if fixed else {key: larger},
        )


def _text_inputs(subject: Subject) -> dict[str, Any]:
    """Input -> preprocessor, for encoders that have a tokenizer."""
    assert subject.recipe is not None
    preprocessors = subject.inputs.preprocessors
    return {
        name: preprocessors[name]
        for name in subject.recipe.model.types
        if hasattr(preprocessors.get(name), "tokenizer")
    }


def _texts(subject: Subject, name: str, prepare: Any) -> list[str]:
    """The texts of evenly spaced items of the training source."""
    source = subject.train_source
    values = modality(subject.inputs.types[name]).values
    found: list[str] = []
    for row in range(0, len(source), max(1, -(-len(source) // MAX_ITEMS))):
        try:
            found += values(name, prepare, source[row])
        except BrokenRecordError:
            continue  # counted by another check
    return found
