"""Checks of sources: duplicates, false negatives, overlap of training and validation, blanks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from amodal.data.perceptual_hash import near_duplicate_pairs
from amodal.doctor.finding import Finding
from amodal.doctor.source_facts import SourceFacts
from amodal.doctor.subject import Subject

SHOWN = 3  # examples of each
REFERENCE_BATCH = 256  # items, where there is no recipe
# Equal captions are positives of each other and teach nothing wrong, but as many items cannot be
# told apart by their captions. In batches of 256, Flickr8k and the built-in scenes have 0.01 %.
MAX_SHARED = 0.1  # of the items of a batch
# Pairs that belong together and are trained apart. In batches of 256, Flickr8k and the built-in
# scenes have 0.01 %; 3 % is one item of a batch of 32.
MAX_FALSE_NEGATIVES = 0.03  # of the items of a batch
# Even one held-out image that was trained on is wrong in the metrics; one in 200 moves recall by
# at most half a point, less than its sampling error.
MAX_OVERLAP = 0.005  # of the validation images
MAX_BLANK = 0.01  # of the images: one colour, or one and the same placeholder
MAX_BROKEN = 0.02  # of the rows
PLACEHOLDER = 10  # items with the same image, from which on it stands for "no image"


def broken_rows(subject: Subject) -> Iterator[Finding]:
    """Rows that cannot be read, where they are more than a few."""
    for facts in subject.sources:
        broken, rows = facts.inspection.broken, facts.inspection.broken + facts.items
        if broken <= MAX_BROKEN * rows:
            continue
        reasons = islice(facts.inspection.broken_by_reason.items(), SHOWN)
        yield Finding(
            "broken_rows",
            "error" if 2 * broken > rows else "warning",
            facts.name,
            f"{broken:,} of {rows:,} rows cannot be used: "
            + ", ".join(f"{reason} ({count:,})" for reason, count in reasons)
            + f"; the first: {facts.inspection.broken_rows[0].origin}",
            "mend the rows, or the columns and folders that the source reads them from; "
            "`amodal data inspect` lists them",
        )


def blank_images(subject: Subject) -> Iterator[Finding]:
    """Images of one colour, and one image in the place of many."""
    for facts in subject.sources:
        flat = np.flatnonzero(facts.flat)
        if len(flat) > MAX_BLANK * len(facts.hashes):
            yield Finding(
                "blank_images",
                "warning",
                facts.name,
                f"{len(flat):,} of {len(facts.hashes):,} images have one colour only, such as that "
                f"of {facts.image_origin(flat[0])}",
                "leave these rows out, or read the images from where they are whole",
            )
        repeated = _placeholders(facts)
        if repeated.sum() > MAX_BLANK * len(facts.hashes):
            contents, count = np.unique(facts.contents[repeated], return_counts=True)
            first = int(np.flatnonzero(facts.contents == contents[count.argmax()])[0])
            yield Finding(
                "placeholder_image",
                "warning",
                facts.name,
                f"one and the same image belongs to {int(count.max()):,} items, the first of them "
                f"{facts.image_origin(first)}; {int(repeated.sum()):,} of {len(facts.hashes):,} "
                f"images are such",
                "leave these rows out, or leave the cell of the image empty where there is none",
            )


def shared_captions(subject: Subject) -> Iterator[Finding]:
    """Captions that several items have, word for word: they name classes rather than items."""
    labelled = any(one.positives == "label" for one in subject.objectives.values())
    if labelled or not _compares_items(subject):
        return
    facts = subject.train
    batch = min(subject.batch_size or REFERENCE_BATCH, facts.items)
    share = _share_with_partner(facts.caption_item, facts.caption_keys, batch)
    if share <= MAX_SHARED:
        return
    _, place, count = np.unique(facts.caption_keys, return_inverse=True, return_counts=True)
    most = facts.captions[int(np.flatnonzero(place == count.argmax())[0])]
    settings: dict[str, Any] = {}
    for objective in subject.objectives:
        settings |= subject.changed_objective(objective, "positives", "label")
    column = getattr(subject.columns, "text", None)
    if column is not None and all(label is None for label in facts.labels):
        settings["data.train.columns.label"] = column
    yield Finding(
        "shared_captions",
        "warning",
        facts.name,
        f"{len(count):,} different captions for {facts.items:,} items; in a batch of {batch} items "
        f"{share:.0%} have one that another item has, such as {most!r}. Recall@1 from text to "
        f"image cannot exceed {np.mean(1 / count[place]):.0%}",
        "captions that name a class cannot tell its items apart: take the class as label and as "
        "positive, and evaluate with `--task zero-shot`; for search, describe each item",
        settings,
    )


def false_negatives(subject: Subject) -> Iterator[Finding]:
    """Items of a batch that belong together, and are trained as negatives of each other."""
    if not _compares_items(subject):
        return
    facts = subject.train
    batch = min(subject.batch_size or REFERENCE_BATCH, facts.items)
    written = _share_with_partner(facts.caption_item, facts.caption_keys, batch)
    alike = _share_with_partner(facts.caption_item, facts.plain_keys, batch) - written
    unique = np.where(_placeholders(facts), np.uint64(0), facts.hashes)
    pairs = near_duplicate_pairs(unique, facts.colors)
    twins = _share_with_partner(facts.image_item, _groups(len(facts.hashes), pairs), batch)
    if alike > MAX_FALSE_NEGATIVES:
        yield Finding(
            "false_negatives",
            "warning",
            facts.name,
            f"in a batch of {batch} items {alike:.0%} have the caption of another item up to case "
            "and punctuation; the loss pushes them apart",
            "write equal captions alike: then they count as positives of each other. Label "
            "smoothing lessens the harm until then",
            subject.smoothed(min(subject.objectives)) if subject.objectives else {},
        )
    if twins > MAX_FALSE_NEGATIVES:
        column = getattr(subject.columns, "image", None)
        yield Finding(
            "false_negatives",
            "warning",
            facts.name,
            f"in a batch of {batch} items {twins:.0%} have nearly the same image as another item, "
            f"such as {_named(facts, pairs)}; the loss pushes them apart",
            "make the rows of one image one item, so that all of its captions are positives: give "
            "them the same `id`, or group them by the column of the image",
            {"data.train.group_by": column} if column is not None else {},
        )


def overlap(subject: Subject) -> Iterator[Finding]:
    """Validation images that training has seen, byte for byte or nearly."""
    train, held_out = subject.train, subject.validation
    if held_out is None or not len(held_out.contents) or not len(train.contents):
        return
    split = len(train.hashes)
    exact = np.isin(held_out.contents, train.contents) & ~held_out.flat
    hashes = np.concatenate([train.hashes, held_out.hashes])
    pairs = near_duplicate_pairs(hashes, np.concatenate([train.colors, held_out.colors]))
    group = _groups(len(hashes), pairs)
    near = np.isin(group[split:], group[:split]) & ~exact
    settings = {"data.validation": None, "data.holdout": 0.1}
    advice = (
        "the metrics of these items are those of training: leave them out of one side, or let a "
        "share of the training items be held out in the place of this validation source"
    )
    total = len(held_out.contents)
    if exact.any():
        yield Finding(
            "validation_images_in_training",
            "error",
            held_out.name,
            f"{int(exact.sum()):,} of {total:,} validation images are files that training has too: "
            + _partners(train, held_out, exact, train.contents, held_out.contents),
            advice,
            settings,
        )
    if near.sum() > MAX_OVERLAP * total:
        yield Finding(
            "near_duplicates_in_training",
            "error" if near.sum() > 10 * MAX_OVERLAP * total else "warning",
            held_out.name,
            f"{int(near.sum()):,} of {total:,} validation images are nearly the same as one of "
            "training: " + _partners(train, held_out, near, group[:split], group[split:]),
            advice,
            settings,
        )


def _compares_items(subject: Subject) -> bool:
    """Whether items are contrasted with each other, as far as there is a recipe that says so."""
    return subject.recipe is None or bool(subject.objectives)


def _placeholders(facts: SourceFacts) -> np.ndarray:
    """(M,) bool, the images that many items have byte for byte."""
    _, place, count = np.unique(facts.contents, return_inverse=True, return_counts=True)
    found: np.ndarray = (count[place] >= PLACEHOLDER) & ~facts.flat
    return found


def _share_with_partner(item: np.ndarray, key: np.ndarray, batch: int) -> float:
    """Expected share of the items of a random batch with a key that another item of it has.

    Each item brings one of its values, drawn at random. Another item is in the batch with
    probability q = (batch - 1) / (items - 1), and then brings a value with probability p, so that
    nobody else brings it with probability Π (1 - q p) over the other items, as far as these are
    drawn independently.
    """
    items = len(np.unique(item))
    if batch < 2 or items < 2:
        return 0.0
    pairs, count = np.unique(np.stack([key, item]), axis=1, return_counts=True)
    _, value = np.unique(pairs[0], return_inverse=True)
    brings = count / np.bincount(item)[pairs[1]]
    drawn = min(1.0, (batch - 1) / (items - 1))
    absent = np.log1p(-np.minimum(drawn * brings, 1 - 1e-12))
    nobody = np.exp(np.bincount(value, absent)[value] - absent)
    return float((brings * (1 - nobody)).sum() / items)


def _groups(images: int, pairs: np.ndarray) -> np.ndarray:
    """(images,) number of the group of each image; pairs are in one group, and their pairs."""
    ones = np.ones(len(pairs), bool)
    graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(images, images))
    group: np.ndarray = connected_components(graph, directed=False)[1]
    return group


def _named(facts: SourceFacts, pairs: np.ndarray) -> str:
    """The first pair of images of two items."""
    apart = pairs[facts.image_item[pairs[:, 0]] != facts.image_item[pairs[:, 1]]]
    return " and ".join(facts.image_origin(int(image)) for image in apart[0])


def _partners(
    train: SourceFacts,
    held_out: SourceFacts,
    which: np.ndarray,
    train_keys: np.ndarray,
    held_out_keys: np.ndarray,
) -> str:
    """The first pairs, each with its rows."""
    pairs = []
    for image in np.flatnonzero(which)[:SHOWN].tolist():
        partner = int(np.flatnonzero(train_keys == held_out_keys[image])[0])
        pairs.append(f"{held_out.image_origin(image)} is {train.image_origin(partner)}")
    return "; ".join(pairs) + (", …" if which.sum() > SHOWN else "")
