"""Captions: kept true of a mirrored picture, and thinned out token by token."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

OPPOSITE = {
    "left": "right",
    "right": "left",
    "leftmost": "rightmost",
    "rightmost": "leftmost",
    "lefthand": "righthand",
    "righthand": "lefthand",
    "leftward": "rightward",
    "rightward": "leftward",
    "leftwards": "rightwards",
    "rightwards": "leftwards",
    "clockwise": "counterclockwise",
    "counterclockwise": "clockwise",
    "anticlockwise": "clockwise",
    "左": "右",
    "右": "左",
}
WORD = re.compile(
    r"左右|右左|[左右]|\b(?:(?:left|right)(?:most|hand|wards?)?|(?:counter|anti)?clockwise)\b",
    re.IGNORECASE,
)
# Words before "left" and "right" after which they can only be a direction or a side.
SIDE_BEFORE = frozenset(
    [
        "the",
        "his",
        "her",
        "their",
        "its",
        "my",
        "your",
        "our",
        "far",
        "upper",
        "lower",
        "top",
        "bottom",
        "front",
        "back",
        "rear",
        "center",
        "centre",
        "middle",
        "extreme",
        "facing",
        "face",
        "faces",
        "looking",
        "looks",
        "look",
        "turning",
        "turns",
        "turn",
        "leaning",
        "leans",
        "pointing",
        "points",
        "heading",
        "heads",
        "moving",
        "moves",
        "to",
        "toward",
        "towards",
    ]
)
# "right behind", "right now": an adverb, not a side.
RIGHT_ADVERB = frozenset(
    [
        "now",
        "away",
        "behind",
        "next",
        "in",
        "before",
        "after",
        "above",
        "below",
        "under",
        "underneath",
        "beneath",
        "beside",
        "near",
        "at",
        "into",
        "through",
        "by",
        "on",
        "up",
        "out",
        "off",
        "along",
        "over",
        "against",
        "outside",
        "inside",
        "there",
        "here",
        "past",
        "side-by-side",
        "across",
        "down",
        "back",
        "ahead",
        "front",
        "there's",
        "where",
        "when",
        "angle",
        "angles",
        "angled",
    ]
)
# "all right", "that is right": an adjective.
RIGHT_ADJECTIVE_BEFORE = frozenset(["all", "alright", "that's", "just", "it's"])
# "left behind", "left the room": the past of "leave".
LEFT_VERB_AFTER = frozenset(
    [
        "behind",
        "over",
        "overs",
        "alone",
        "out",
        "open",
        "unattended",
        "empty",
        "on",
        "by",
        "in",
        "at",
        "for",
        "the",
        "a",
        "an",
        "them",
        "him",
        "it",
        "with",
        "from",
        "his",
        "her",
        "their",
        "its",
        "some",
        "one",
        "two",
    ]
)
LEFT_VERB_BEFORE = frozenset(
    [
        "has",
        "have",
        "had",
        "having",
        "was",
        "were",
        "been",
        "being",
        "be",
        "is",
        "are",
        "he",
        "she",
        "they",
        "who",
        "which",
        "that",
        "just",
        "i",
        "we",
        "you",
        "something",
        "someone",
        "nothing",
    ]
)


def swap_left_right(text: str) -> str:
    """The caption of the mirrored picture: sides are exchanged, everything else stays.

    "left" and "right" are exchanged where they are a side or a direction, body parts included; not
    where "right" is an adverb ("right behind") or an adjective ("all right") and not where "left"
    is a form of "leave". In Chinese 左 and 右 are exchanged, but not in 左右, which means both
    sides or "about". Case is kept. Applied twice it gives the text back, with "anticlockwise"
    spelled "counterclockwise".
    """

    def swap(found: re.Match[str]) -> str:
        word = found.group()
        if word.lower() in ("left", "right"):
            before = re.findall(r"[\w'’]+", text[max(0, found.start() - 40) : found.start()])
            if not _is_side(word.lower(), before, text[found.end() :]):
                return word
        opposite = OPPOSITE.get(word.lower())
        return word if opposite is None else _in_case_of(word, opposite)

    return WORD.sub(swap, text)


def _is_side(word: str, before: list[str], rest: str) -> bool:
    previous = before[-1].lower() if before else ""
    following = re.match(r"[\s]*([\w'’-]+)", rest)
    after = following.group(1).lower() if following else ""
    if after == "of" or previous in SIDE_BEFORE or rest.startswith("-hand"):
        return True
    if word == "right":
        return after not in RIGHT_ADVERB and previous not in RIGHT_ADJECTIVE_BEFORE
    if previous in LEFT_VERB_BEFORE:
        return after in ("side", "hand", "arm", "leg", "foot", "shoulder")
    return after not in LEFT_VERB_AFTER or previous in ("on", "at", "from", "in")


def _in_case_of(model: str, word: str) -> str:
    if model.isupper() and len(model) > 1:
        return word.upper()
    return word.capitalize() if model[0].isupper() else word


def token_mask(
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    special_ids: Collection[int],
    mask_id: int,
    rate: float,
    rngs: Sequence[np.random.Generator],
) -> Tensor:
    """Put `mask_id` in the place of a share of the tokens.

    Args:
        input_ids, attention_mask: (B, T).
        special_ids: tokens that stay, such as [CLS] and padding.
        rate: share of the content tokens, each drawn on its own; one of a row always stays.
        rngs: B generators; row b draws from the b-th only.

    Returns:
        (B, T) ids.
    """
    chosen = _chosen(input_ids, attention_mask, special_ids, rate, rngs)
    return torch.where(chosen, torch.full_like(input_ids, mask_id), input_ids)


def token_dropout(
    tokens: dict[str, Tensor],
    *,
    special_ids: Collection[int],
    rate: float,
    rngs: Sequence[np.random.Generator],
) -> dict[str, Tensor]:
    """Leave a share of the tokens out; the rest moves up, and the mask becomes shorter.

    Args:
        tokens: `input_ids` and `attention_mask`, (B, T); padding stays on the right.
        special_ids, rate, rngs: as for `token_mask`.
    """
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    dropped = _chosen(ids, mask, special_ids, rate, rngs)
    order = dropped.long().argsort(dim=1, stable=True)  # what stays keeps its order
    kept = mask.masked_fill(dropped, 0).gather(1, order)
    moved = ids.gather(1, order)
    padding = ids[mask == 0]
    fill = int(padding[0]) if len(padding) else 0
    longest = max(1, int(kept.sum(dim=1).max())) if len(kept) else 1
    moved = torch.where(kept.bool(), moved, torch.full_like(moved, fill))
    return {**tokens, "input_ids": moved[:, :longest], "attention_mask": kept[:, :longest]}


def _chosen(
    ids: Tensor,
    mask: Tensor,
    special_ids: Collection[int],
    rate: float,
    rngs: Sequence[np.random.Generator],
) -> Tensor:
    """(B, T) bool: the content tokens that a step takes away, never all of a row."""
    special = torch.tensor(sorted(special_ids), dtype=ids.dtype)
    content = mask.bool() & ~torch.isin(ids, special)
    lengths = mask.sum(dim=1).tolist()
    draws = np.ones(tuple(ids.shape))
    for row, rng in enumerate(rngs):
        # As many draws as the row has tokens: padding to the batch must not matter.
        draws[row, : lengths[row]] = rng.random(int(lengths[row]))
    drawn = torch.from_numpy(draws)
    chosen = content & (drawn < rate)
    everything = (chosen == content).all(dim=1)
    stays = drawn.masked_fill(~content, -1).argmax(dim=1)  # the token with the largest draw
    rows = torch.arange(len(ids))
    chosen[rows, stays] &= ~everything
    return chosen
