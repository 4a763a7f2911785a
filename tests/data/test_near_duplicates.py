"""Fingerprints of images, and the groups that they form."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from amodal.data.near_duplicates import (
    MAX_DISTANCE,
    content_fingerprint,
    near_duplicate_groups,
    perceptual_hash,
)


def photo(seed, side=160):
    """A smooth random image, as photos are: strong low frequencies, weak high ones."""
    rng = np.random.default_rng(seed)
    low = Image.fromarray(rng.integers(0, 255, (9, 9, 3), np.uint8))
    return low.resize((side, side), Image.Resampling.BICUBIC)


def compressed(image):
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=40)
    return Image.open(stream)


def distance(a, b):
    left, right = (perceptual_hash(np.asarray(image)) for image in (a, b))
    return (left ^ right).bit_count()


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.resize((64, 80)),
        lambda image: image.resize((700, 500)),
        compressed,
        lambda image: ImageEnhance.Brightness(image).enhance(1.1),
        lambda image: image.convert("L").convert("RGB"),
    ],
    ids=["smaller", "larger", "compressed", "brighter", "grey"],
)
def test_a_changed_copy_is_near_and_another_image_is_far(change):
    distances = [distance(photo(seed), change(photo(seed))) for seed in range(20)]
    assert sum(d <= MAX_DISTANCE for d in distances) >= 18
    others = [distance(photo(seed), change(photo(seed + 1))) for seed in range(20)]
    assert min(others) > MAX_DISTANCE


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 500, 3), (3, 2, 3), (33, 31, 3)])
def test_images_of_any_shape_have_a_hash(shape):
    assert 0 <= perceptual_hash(np.zeros(shape, np.uint8)) < 1 << 64


def test_groups_are_those_of_a_brute_force_comparison():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 1 << 63, 60, dtype=np.uint64)
    for i in range(0, 60, 3):  # a chain of two near codes after every third one
        codes[i + 1] = codes[i] ^ np.uint64(0b1011)
        codes[i + 2] = codes[i + 1] ^ np.uint64(0b1111 << 40)
    rows = [{"image": [int(code)]} for code in codes]
    groups = near_duplicate_groups(rows, list(range(60)))
    near = [
        [(int(a) ^ int(b)).bit_count() <= MAX_DISTANCE or i // 3 == j // 3 for j, b in
         enumerate(codes)] for i, a in enumerate(codes)
    ]  # fmt: skip
    assert (groups[:, None] == groups[None]).tolist() == near


def test_rows_of_one_id_and_equal_texts_are_linked_but_not_templates():
    rare, template = content_fingerprint(b"a dog"), content_fingerprint(b"a photo of a dog")
    rows = [{"text": [template, *([rare] if i < 2 else [])]} for i in range(20)]
    groups = near_duplicate_groups(rows, [*range(19), 18], exact={"text"}).tolist()
    assert groups[0] == groups[1]
    assert groups[18] == groups[19]
    assert len(set(groups)) == 18


def test_texts_that_differ_in_few_bits_are_not_near():
    rows = [{"text": [0b1000]}, {"text": [0b1001]}]
    assert len(set(near_duplicate_groups(rows, [0, 1], exact={"text"}).tolist())) == 2


def test_no_rows_have_no_groups():
    assert near_duplicate_groups([], []).tolist() == []
