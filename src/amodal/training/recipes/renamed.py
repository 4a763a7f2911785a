"""Keys and values of recipes of before, and what they are called now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

# Old key -> new keys; the one that the part of the recipe has is meant.
RENAMED_KEYS: dict[str, tuple[str, ...]] = {
    "absolute": ("l1_weight",),
    "answers": ("answer_head",),
    "at_least": ("min_count",),
    "blocks": ("num_res_blocks",),
    "captions": ("captions_per_item",),
    "categories": ("categorical",),
    "code_width": ("codebook_dim",),
    "codes": ("codebook_size",),
    "colour": ("max_exponent",),
    "commitment": ("commitment_weight",),
    "count": ("num_masks",),
    "cross": ("cross_reconstruction",),
    "dense": ("dense_annotations",),
    "deviation": ("std",),
    "full_at": ("end_fraction",),
    "grid": ("min_grid_size",),
    "harden_after": ("semi_hard_steps",),
    "items": ("num_train_items",),
    "keep": ("checkpoint",),
    "levels": ("cardinalities",),
    "mels": ("n_mels",),
    "most": ("max_answers",),
    "numbers": ("numerical",),
    "part": ("split",),
    "patch": ("patch_size",),
    "per": ("group_by", "average_over"),
    "private": ("private_dim",),
    "progressive_size": ("progressive_resizing",),
    "questions": ("questions_per_item",),
    "queue_after": ("queue_start_step",),
    "reduce": ("reduced_dim",),
    "restart": ("dead_code_threshold",),
    "seeds": ("known_pairs",),
    "share": ("max_fraction",),
    "shared": ("shared_dim",),
    "smoothing": ("label_smoothing",),
    "squared": ("mse_weight",),
    "start": ("init_from", "initial_size"),
    "style": ("attention",),
    "supervised": ("supervised_weight",),
    "text": ("caption_template",),
    "token_frames": ("frames_per_token",),
    "unconditional": ("caption_dropout",),
    "unimodal": ("unimodal_weight", "unimodal_heads"),
    "until": ("end_fraction",),
    "validation_items": ("max_validation_items",),
    "views": ("views_per_item",),
    "width": ("max_width",),
    "word_vectors": ("embedding_init",),
}
# Old value -> new values; the one that the key accepts is meant.
RENAMED_VALUES: dict[str, tuple[str, ...]] = {
    "all": ("modality",),
    "channel": ("band",),
    "classified": ("classification",),
    "cross_modality": ("cross_modal",),
    "draw": ("text_to_image",),
    "exchange": ("conversation",),
    "generated": ("generation",),
    "in_modality": ("intra_modal",),
    "own": ("precision",),
    "pairs": ("info_nce",),
    "picture": ("image",),
    "rounds": ("single_turn",),
    "speed_change": ("speed_perturbation",),
    "together": ("co_attention",),
    "units": ("unit",),
    "utterance": ("clip",),
}


def renamed_key(old: str, known: Iterable[str]) -> str | None:
    """The present name of a key, where a part of a recipe with the `known` keys has it.

    Examples:
        >>> renamed_key("unimodal", ["dropout", "unimodal_heads"])
        'unimodal_heads'
    """
    there = set(known)
    return next((new for new in RENAMED_KEYS.get(old, ()) if new in there), None)


def renamed_value(old: str, message: str) -> str | None:
    """The present name of a value, where the message about it lists that as expected.

    Examples:
        >>> renamed_value("own", "Input should be 'modality', 'unit' or 'precision'")
        'precision'
    """
    return next((new for new in RENAMED_VALUES.get(old, ()) if f"'{new}'" in message), None)


def moved_settings(values: Any, path: str = "") -> Iterator[str]:
    """Settings of before that would be read as something else: the key is still in use.

    Yields:
        One line each with the place, what stands there, and what to write.

    Examples:
        >>> list(moved_settings({"train": {"kind": "scenes", "split": "iid"}}))
        ['`train.split`: iid is now written `generalization: iid`']
    """
    if isinstance(values, list | tuple):
        for number, one in enumerate(values):
            yield from moved_settings(one, f"{path}.{number}" if path else str(number))
    if not isinstance(values, dict):
        return
    for key, value in values.items():
        place = f"{path}.{key}" if path else str(key)
        if key == "split" and values.get("kind") == "scenes" and value in GENERALIZATIONS:
            yield f"`{place}`: {value} is now written `generalization: {value}`"
        elif key == "empty" and path.endswith("columns") and value in EMPTY_CELLS:
            yield f"`{place}`: {value} is now written `empty_cells: {EMPTY_CELLS[value]}`"
        else:
            yield from moved_settings(value, place)


GENERALIZATIONS = ("iid", "attribute-pair", "count", "relation")
EMPTY_CELLS = {"broken": "error", "missing": "missing"}
