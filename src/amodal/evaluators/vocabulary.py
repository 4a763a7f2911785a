"""Share of the tokens of a source that the tokenizers of a model do not know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from amodal.data.collate import Collator
from amodal.data.record import BrokenRecordError, Source
from amodal.modalities.conversation import CONVERSATION
from amodal.models.inputs import collator_of

MAX_ITEMS = 1000  # of a source, evenly spaced
LARGE_SHARE = 0.05  # from here on a note says so


def unknown_token_shares(
    collator: Collator, source: Source, items: int = MAX_ITEMS
) -> dict[str, float]:
    """Input -> share of its tokens that are out of vocabulary, over evenly spaced items.

    Inputs that are no texts, and those without a text in these items, are left out.

    Args:
        collator: with the inputs of a model.
        source: of the texts.
        items: most items that are read; no media is decoded.
    """
    return _shares(collator, source, "count_unknown", items)


def truncated_text_shares(
    collator: Collator, source: Source, items: int = MAX_ITEMS
) -> dict[str, float]:
    """Input -> share of its texts that are cut to the maximum length of the encoder."""
    return _shares(collator, source, "count_truncated", items)


def _shares(collator: Collator, source: Source, method: str, items: int) -> dict[str, float]:
    """Input -> first count over second count of the inputs that have a counting method."""
    counters = {
        name: getattr(one, method) for name, one in collator.inputs.items() if hasattr(one, method)
    }
    counts = dict.fromkeys(counters, (0, 0))
    size = len(source)
    step = max(1, -(-size // items))
    for row in range(0, size if counters else 0, step):
        try:
            record = source[row]
            found = {name: count(record) for name, count in counters.items()}
        except (BrokenRecordError, ValueError):
            continue  # listed by what reads the whole source
        for name, (some, all_) in found.items():
            counts[name] = (counts[name][0] + some, counts[name][1] + all_)
    return {name: some / all_ for name, (some, all_) in counts.items() if all_}


def unknown_token_notes(shares: dict[str, float], where: str) -> list[str]:
    """A sentence for each input of which a large share of the tokens is unknown.

    Examples:
        >>> from amodal.evaluators.vocabulary import unknown_token_notes
        >>> unknown_token_notes({"text": 0.004}, "the validation data")
        []
    """
    return [
        f"{100 * share:.0f} % of the {name} tokens of {where} are out of vocabulary; train with "
        "`tokenizer: {kind: trained, model: bpe}`, which splits rare words into known pieces, a "
        "larger `vocab_size`, or a pretrained tokenizer for this language"
        for name, share in shares.items()
        if share >= LARGE_SHARE
    ]


def count_unknown_tokens(
    collator: Collator, train: Source, validation: Source | None, warn: Callable[[str], None]
) -> dict[str, float]:
    """Metrics of the unknown tokens of the data of a run.

    Args:
        collator: with the inputs of a model.
        train, validation: the data; None: nothing is held out.
        warn: called with a sentence where a share is large.
    """
    metrics: dict[str, float] = {}
    parts = (("the training data", "", train), ("the validation data", "_validation", validation))
    for where, suffix, source in parts:
        shares = unknown_token_shares(collator, source) if source is not None else {}
        metrics |= {f"data/unknown_{name}_tokens{suffix}": s for name, s in shares.items()}
        for note in unknown_token_notes(shares, where):
            warn(note)
    return metrics


def collator_of_task(model: Any, task: str) -> Collator:
    """A collator of the inputs of a model, with the conversations of a task where it has any."""
    name: Any = task.replace("-", "_")
    return collator_of(model, tasks={name: None} if CONVERSATION in model.preprocessors else None)
