"""Perceptual hashes and their pairs, against every pair compared one by one."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from amodal.data.decode import decode_image
from amodal.data.perceptual_hash import (
    MAX_DISTANCE,
    color_grid,
    is_flat,
    near_duplicate_pairs,
    perceptual_hash,
)
from amodal.data.sources.specification import parse_source


def photo(seed=0, size=(160, 120)):
    """A smooth random image with some edges."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def saved_again(image, quality):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def distance(a, b):
    return (perceptual_hash(np.asarray(a)) ^ perceptual_hash(np.asarray(b))).bit_count()


@pytest.mark.parametrize(
    "change",
    [
        lambda image: saved_again(image, 30),
        lambda image: image.resize((80, 60)),
        lambda image: ImageEnhance.Brightness(image).enhance(0.8),
        lambda image: ImageEnhance.Contrast(image).enhance(0.8),
        lambda image: image.convert("L").convert("RGB"),
    ],
    ids=["jpeg", "half", "darker", "flatter", "grey"],
)
def test_a_changed_copy_is_near_and_another_image_is_not(change):
    for seed in range(20):
        image = photo(seed)
        assert distance(image, change(image)) <= MAX_DISTANCE
        assert distance(image, change(photo(seed + 100))) > MAX_DISTANCE


def test_flat_images_are_duplicates_of_nothing():
    flat = [perceptual_hash(np.full((20, 30, 3), v, np.uint8)) for v in (0, 0, 128)]
    assert flat == [0, 0, 0]
    assert near_duplicate_pairs(np.array(flat, np.uint64)).shape == (0, 2)


def test_small_objects_on_plain_ground_are_duplicates_of_nothing():
    page = np.full((64, 64, 3), 240, np.uint8)
    page[20:28, 30:38] = (200, 30, 30)
    assert perceptual_hash(page) == 0
    assert not is_flat(page)
    assert is_flat(page[:10])


@pytest.mark.parametrize("max_distance", [0, 1, 4, 7])
def test_the_pairs_are_those_of_a_comparison_of_all(max_distance):
    rng = np.random.default_rng(max_distance)
    base = rng.integers(1, 1 << 63, 40, dtype=np.uint64)
    flips = [
        np.uint64(sum(1 << int(b) for b in rng.choice(64, rng.integers(0, 9), replace=False)))
        for _ in range(200)
    ]
    hashes = np.unique(base[rng.integers(0, 40, 200)] ^ np.array(flips, np.uint64))
    hashes = rng.permutation(hashes)
    all_pairs = [
        [i, j]
        for i, j in itertools.combinations(range(len(hashes)), 2)
        if int(hashes[i] ^ hashes[j]).bit_count() <= max_distance
    ]
    assert near_duplicate_pairs(hashes, max_distance=max_distance).tolist() == all_pairs
    assert max_distance == 0 or all_pairs


def test_equal_images_are_a_chain():
    hashes = np.array([12, 3, 12, 0, 12, 0, 1 << 50, 3], np.uint64)
    pairs = [[0, 2], [1, 7], [2, 4]]
    assert near_duplicate_pairs(hashes, max_distance=0).tolist() == pairs
    colors = np.arange(8 * 192).reshape(8, 192).astype(np.uint8)
    colors[[2, 4]] = colors[0]
    colors[7] = 255 - colors[1]  # the same brightness and other colours
    assert near_duplicate_pairs(hashes, colors).tolist() == [[0, 2], [2, 4]]


def test_equal_hashes_of_several_colors_are_all_compared():
    hashes = np.full(4, 77, np.uint64)
    red, blue = np.tile([250, 0, 0], 64), np.tile([0, 0, 250], 64)
    red[:3] = blue[:3] = 9
    colors = np.stack([red, blue, red + 1, blue]).astype(np.uint8)
    assert near_duplicate_pairs(hashes, colors).tolist() == [[0, 2], [1, 3]]


def test_scenes_of_one_layout_in_other_colors_are_no_duplicates():
    source = parse_source("scenes:size=400").open()
    images = [decode_image(source[i]["image"], "a scene") for i in range(400)]
    hashes = np.array([perceptual_hash(image) for image in images], np.uint64)
    colors = np.stack([color_grid(image) for image in images])
    assert len(near_duplicate_pairs(hashes)) > 0
    assert len(near_duplicate_pairs(hashes, colors)) == 0


def test_no_hashes_have_no_pairs_and_a_large_distance_is_refused():
    assert near_duplicate_pairs(np.zeros(0, np.uint64)).shape == (0, 2)
    with pytest.raises(ValueError, match="0…15"):
        near_duplicate_pairs(np.zeros(2, np.uint64), max_distance=16)
