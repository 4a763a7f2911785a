"""Fingerprints of values, and the groups that they form."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from amodal.data.near_duplicates import (
    Fingerprint,
    content_fingerprint,
    image_fingerprint,
    near_duplicate_groups,
)
from amodal.data.perceptual_hash import COLORS, MAX_DISTANCE
from amodal.modalities.image import ImageModality


def photo(seed, side=160):
    """A smooth random image, as photos are: strong low frequencies, weak high ones."""
    rng = np.random.default_rng(seed)
    low = Image.fromarray(rng.integers(0, 255, (9, 9, 3), np.uint8))
    return low.resize((side, side), Image.Resampling.BICUBIC)


def compressed(image):
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=40)
    return Image.open(stream)


def drawing(shade=200):
    """A small square on plain ground."""
    page = np.full((64, 64, 3), 240, np.uint8)
    page[20:28, 30:38] = shade
    return page


def groups_of(images):
    rows = [{"image": [image_fingerprint(np.asarray(image))]} for image in images]
    return near_duplicate_groups(rows, list(range(len(rows)))).tolist()


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.resize((96, 120)),
        lambda image: image.resize((700, 500)),
        compressed,
        lambda image: ImageEnhance.Brightness(image).enhance(0.8),
    ],
    ids=["smaller", "larger", "compressed", "darker"],
)
def test_a_changed_copy_is_in_the_group_of_its_image_alone(change):
    images = [photo(seed) for seed in range(20)]
    groups = groups_of([*images, *map(change, images)])
    assert groups == [*range(20), *range(20)]


def test_images_of_one_layout_in_other_colors_are_apart():
    image = np.asarray(photo(0))
    recolored = np.roll(image, 1, axis=2)
    one, other = image_fingerprint(image), image_fingerprint(recolored)
    rows = [{"image": [one]}, {"image": [other._replace(hash=one.hash)]}]
    assert near_duplicate_groups(rows, [0, 1]).tolist() == [0, 1]
    darker = image_fingerprint(image // 2)._replace(hash=one.hash)
    assert near_duplicate_groups([rows[0], {"image": [darker]}], [0, 1]).tolist() == [0, 0]


def test_plain_images_are_linked_where_every_pixel_is_equal():
    assert image_fingerprint(drawing()).hash == 0
    assert groups_of([drawing(), drawing(150), drawing(), drawing()[:, :60]]) == [0, 1, 0, 2]


def test_equal_files_have_equal_fingerprints(tmp_path):
    for name in ("a.png", "b.png"):
        Image.fromarray(drawing()).save(tmp_path / name)
    photo(0, 900).save(tmp_path / "large.jpg")
    record = {"origin": "row 1", "photo": [str(tmp_path / n) for n in ("a.png", "b.png")]}
    first, second = ImageModality().fingerprints("photo", record)
    assert first == second
    record["photo"] = [tmp_path / "large.jpg", np.asarray(photo(0, 900))]
    file, pixels = ImageModality().fingerprints("photo", record)
    assert (file.hash ^ pixels.hash).bit_count() <= MAX_DISTANCE  # the file is decoded smaller


def test_groups_are_those_of_a_brute_force_comparison():
    rng = np.random.default_rng(0)
    codes = rng.integers(1, 1 << 63, 60, dtype=np.uint64)
    for i in range(0, 60, 3):  # a chain of two near codes after every third one
        codes[i + 1] = codes[i] ^ np.uint64(0b1011)
        codes[i + 2] = codes[i + 1] ^ np.uint64(0b111111 << 40)
    colors = rng.integers(0, 256, COLORS, dtype=np.uint8).tobytes()
    rows = [{"image": [Fingerprint(bytes([i]), int(code), colors)]} for i, code in enumerate(codes)]
    groups = near_duplicate_groups(rows, list(range(60)))
    near = [
        [(int(a) ^ int(b)).bit_count() <= MAX_DISTANCE or i // 3 == j // 3 for j, b in
         enumerate(codes)] for i, a in enumerate(codes)
    ]  # fmt: skip
    assert (groups[:, None] == groups[None]).tolist() == near


def test_rows_of_one_id_and_equal_texts_are_linked_but_not_templates():
    rare, template = (
        content_fingerprint(text, may_be_template=True) for text in (b"a dog", b"a photo of a dog")
    )
    rows = [{"text": [template, *([rare] if i < 2 else [])]} for i in range(20)]
    groups = near_duplicate_groups(rows, [*range(19), 18]).tolist()
    assert groups[0] == groups[1]
    assert groups[18] == groups[19]
    assert len(set(groups)) == 18


def test_a_file_that_many_rows_share_links_them():
    rows = [{"audio": [content_fingerprint(b"RIFF")]} for _ in range(20)]
    assert near_duplicate_groups(rows, range(20)).tolist() == [0] * 20


def test_equal_values_of_two_inputs_are_not_linked():
    value = content_fingerprint(b"a dog")
    assert near_duplicate_groups([{"text": [value]}, {"title": [value]}], [0, 1]).tolist() == [0, 1]


def test_no_rows_have_no_groups():
    assert near_duplicate_groups([], []).tolist() == []
