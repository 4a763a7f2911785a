"""Checks of texts against the tokenizers of a model: truncated texts, unknown tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from amodal.data.record import BrokenRecordError, Source
from amodal.doctor.finding import Finding
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
    for name, prepare in _text_inputs(subject):
        texts = _texts(subject, name, prepare, subject.train_source)
        if not texts:
            continue
        share = prepare.count_truncated(texts) / len(texts)
        if share <= MAX_TRUNCATED:
            continue
        rows = prepare.tokenizer(texts, return_attention_mask=False, verbose=False)["input_ids"]
        lengths = np.array([len(row) for row in rows])
        wanted = int(-(-np.percentile(lengths, COVERED) // 8) * 8)
        key = f"model.encoders.{name}.{prepare.length_option}"
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
    held_out = subject.opened[1]
    for where, source in (("training", subject.train_source), ("validation", held_out)):
        shares = unknown_token_shares(collator, source) if source is not None else {}
        for name, share in shares.items():
            if share < LARGE_SHARE:
                continue
            key = f"model.encoders.{name}.tokenizer"
            larger = {"kind": "trained", "model": "bpe", "vocab_size": LARGE_VOCABULARY}
            assert subject.recipe is not None
            fixed = subject.recipe.model.encoders[name].is_pretrained  # with its weights
            size = len(subject.inputs.preprocessors[name].tokenizer)
            yield Finding(
                "unknown_words",
                "warning",
                key,
                f"{share:.0%} of the tokens of the {where} texts are outside of the vocabulary of "
                f"{size:,} and read as one and the same token",
                "split rare words into pieces that are known, or take a larger vocabulary; with "
                "pretrained weights, take a model for this language",
                {} if fixed else {key: larger},
            )
            return


def _text_inputs(subject: Subject) -> list[tuple[str, Any]]:
    """Inputs with a tokenizer."""
    preprocessors = subject.inputs.preprocessors
    return [
        (name, preprocessors[name])
        for name in subject.inputs.types
        if hasattr(preprocessors[name], "count_truncated")
        and hasattr(preprocessors[name], "tokenizer")
    ]


def _texts(subject: Subject, name: str, prepare: Any, source: Source) -> list[str]:
    values = modality(subject.inputs.types[name]).values
    found: list[str] = []
    for row in range(0, len(source), max(1, -(-len(source) // MAX_ITEMS))):
        try:
            found += values(name, prepare, source[row])
        except BrokenRecordError:
            continue  # counted by another check
    return found
