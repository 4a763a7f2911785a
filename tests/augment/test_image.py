"""Images are changed as drawn, each from its own generator, and exactly where it can be exact."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torchvision.transforms.v2 import functional as vision

from amodal.augment.config import (
    AugmentConfig,
    ColorJitter,
    Grayscale,
    HorizontalFlip,
    RandomErasing,
    RandomResizedCrop,
    Rotate,
)
from amodal.augment.image import (
    ImageAugmentation,
    crop_box,
    hue_rotations,
    rotate,
    transform_colours,
)
from amodal.data.record import sample_rng

EVERYTHING = (
    RandomResizedCrop(),
    HorizontalFlip(),
    Rotate(),
    ColorJitter(hue=0.1),
    Grayscale(),
    RandomErasing(probability=0.9),
)


def photos(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes]


def rngs(n, epoch=0):
    return [sample_rng(1, epoch, i) for i in range(n)]


def test_a_result_depends_on_its_own_generator_alone():
    images = photos(*[(40, 30), (64, 64), (33, 50)] * 7)  # more than one chunk
    augment = ImageAugmentation(EVERYTHING, 32)
    together, flags = augment(images, rngs(21))
    again, _ = augment(images, rngs(21))
    assert torch.equal(again, together)
    for i in range(21):
        alone, flag = augment([images[i]], [sample_rng(1, 0, i)])
        assert torch.equal(alone[0], together[i])
        assert flag[0] == flags[i]
    other, _ = augment(images, rngs(21, epoch=1))
    assert not torch.equal(other, together)


def test_the_views_of_a_record_do_not_depend_on_its_place_in_the_batch():
    # Views share a generator; 3 do not divide the number of images that are changed at once.
    images = [i for i in photos(*[(30, 30)] * 12) for _ in range(3)]
    augment = ImageAugmentation(EVERYTHING, 16)
    together, _ = augment(images, [rng for rng in rngs(12) for _ in range(3)])
    for i in range(12):
        rng = sample_rng(1, 0, i)
        alone, _ = augment(images[3 * i : 3 * i + 3], [rng] * 3)
        assert torch.equal(alone, together[3 * i : 3 * i + 3])
    assert not torch.equal(together[0], together[1])


def test_steps_that_may_change_nothing_change_nothing():
    images = photos(*[(24, 24)] * 20)
    steps = (
        RandomResizedCrop(scale=(1, 1), ratio=(1, 1)),
        HorizontalFlip(probability=0),
        Rotate(degrees=0),
        ColorJitter(brightness=0, contrast=0, saturation=0, hue=0),
        Grayscale(probability=0),
        RandomErasing(probability=0),
    )
    pixels, mirrored = ImageAugmentation(steps, 24)(images, rngs(20))
    assert torch.equal(pixels, torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))
    assert not mirrored.any()


def test_a_batch_without_images_is_empty_and_too_few_generators_are_refused():
    augment = ImageAugmentation(EVERYTHING, 16)
    pixels, mirrored = augment([], [])
    assert pixels.shape == (0, 3, 16, 16)
    assert mirrored.shape == (0,)
    with pytest.raises(ValueError, match="2 images, but 1 generator"):
        augment(photos((16, 16), (16, 16)), rngs(1))


def test_without_steps_images_are_only_resized():
    images = photos((32, 32), (64, 40))
    pixels, mirrored = ImageAugmentation((), 32)(images, rngs(2))
    assert torch.equal(pixels[0], torch.from_numpy(images[0]).permute(2, 0, 1))
    assert not mirrored.any()


def test_mirrored_images_are_flagged_and_only_they():
    images = photos(*[(32, 32)] * 40)
    pixels, mirrored = ImageAugmentation((HorizontalFlip(),), 32)(images, rngs(40))
    assert 8 < mirrored.sum() < 32
    for image, out, flag in zip(images, pixels, mirrored, strict=True):
        plain = torch.from_numpy(image).permute(2, 0, 1)
        assert torch.equal(out, plain.flip(-1) if flag else plain)


def test_a_crop_is_the_box_resized():
    (image,) = photos((50, 70))
    crop = RandomResizedCrop(scale=(0.2, 0.6))
    pixels, _ = ImageAugmentation((crop,), 32)([image], rngs(1))
    top, left, height, width = crop_box(50, 70, crop, sample_rng(1, 0, 0))
    plain = torch.from_numpy(image).permute(2, 0, 1)
    want = vision.resized_crop(plain, top, left, height, width, [32, 32], antialias=True)
    assert torch.equal(pixels[0], want)


def test_boxes_lie_inside_and_have_the_area_that_was_asked_for():
    crop = RandomResizedCrop(scale=(0.3, 0.5), ratio=(0.8, 1.25))
    for i in range(500):
        top, left, height, width = crop_box(90, 120, crop, sample_rng(0, 0, i))
        assert 0 <= top <= 90 - height
        assert 0 <= left <= 120 - width
        assert 0.28 <= height * width / (90 * 120) <= 0.52


def test_turning_by_a_quarter_is_exact_and_by_nothing_changes_nothing():
    (image,) = photos((16, 16))
    values = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    assert torch.equal(rotate(values, torch.zeros(1)).round(), values)
    quarter = rotate(values, torch.tensor([math.pi / 2]))
    assert torch.equal(quarter.round(), values.rot90(1, (2, 3)))


@pytest.mark.parametrize(
    ("jitter", "reference"),
    [
        (ColorJitter(brightness=0.5, contrast=0, saturation=0), vision.adjust_brightness),
        (ColorJitter(brightness=0, contrast=0.5, saturation=0), vision.adjust_contrast),
        (ColorJitter(brightness=0, contrast=0, saturation=0.5), vision.adjust_saturation),
    ],
    ids=["brightness", "contrast", "saturation"],
)
def test_colour_changes_agree_with_torchvision(jitter, reference):
    (image,) = photos((24, 24))
    spread = (jitter.brightness, jitter.contrast, jitter.saturation)
    rng = sample_rng(1, 0, 0)
    factor = next(f for x in spread if (f := rng.uniform(1 - x, 1 + x)) != 1)
    pixels, _ = ImageAugmentation((jitter,), 24)([image], rngs(1))
    want = reference(torch.from_numpy(image).permute(2, 0, 1), factor)
    difference = (pixels[0].int() - want.int()).abs()
    assert difference.max() <= 2  # torchvision rounds the grey image on the way


def test_hue_turns_keep_greys_and_a_third_of_a_turn_exchanges_the_primaries():
    turns = hue_rotations(torch.tensor([0.2, 1 / 3]))
    torch.testing.assert_close(turns @ torch.ones(3), torch.ones(2, 3))
    red = torch.tensor([1.0, 0.0, 0.0])
    torch.testing.assert_close(turns[1] @ red, torch.tensor([0.0, 1.0, 0.0]), atol=1e-6, rtol=0)


def test_a_third_of_a_turn_of_hue_is_that_of_torchvision():
    (image,) = photos((24, 24))
    plain = torch.from_numpy(image).permute(2, 0, 1)
    for turns in (1 / 3, -1 / 3):
        turned = transform_colours(
            plain[None].float(), hue_rotations(torch.tensor([turns])), torch.zeros(1, 3, 1)
        )
        want = vision.adjust_hue(plain, turns)
        assert (turned[0].round() - want).abs().max() <= 2


def test_the_identity_map_keeps_every_colour():
    values = torch.from_numpy(photos((8, 8))[0]).permute(2, 0, 1)[None].float()
    assert torch.equal(transform_colours(values, torch.eye(3)[None], torch.zeros(1, 3, 1)), values)


def test_grey_images_have_equal_channels():
    pixels, _ = ImageAugmentation((Grayscale(probability=1),), 16)(photos((16, 16)), rngs(1))
    assert torch.equal(pixels[:, 0], pixels[:, 1])
    assert torch.equal(pixels[:, 1], pixels[:, 2])
    plain = torch.from_numpy(photos((16, 16))[0]).permute(2, 0, 1)
    assert (pixels[0].int() - vision.rgb_to_grayscale(plain, 3).int()).abs().max() <= 1


def test_erasing_covers_one_box_of_the_area_asked_for():
    step = RandomErasing(probability=1, scale=(0.1, 0.1))
    images = photos((64, 64))
    pixels, _ = ImageAugmentation((step,), 64)(images, rngs(1))
    changed = (pixels[0] != torch.from_numpy(images[0]).permute(2, 0, 1)).any(dim=0)
    rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
    box = changed[int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]
    assert 0.08 < box.numel() / 64**2 < 0.12
    assert box.float().mean() > 0.98


def test_a_step_is_a_name_or_a_mapping():
    config = AugmentConfig.model_validate(
        {"image": ["horizontal_flip", {"kind": "rotate", "degrees": 5}], "text": ["token_mask"]}
    )
    assert config.steps["image"] == (HorizontalFlip(), Rotate(degrees=5))


@pytest.mark.parametrize(
    ("part", "step", "why"),
    [
        ("image", "horizontal_flop", "union_tag_invalid"),
        ("image", {"kind": "rotate", "angle": 3}, "extra_forbidden"),
        ("image", {"degrees": 3}, "union_tag_not_found"),
        ("image", {"kind": "rotate", "degrees": float("nan")}, "less_than_equal"),
        ("image", {"kind": "random_resized_crop", "scale": [0.9, 0.1]}, "value_error"),
        ("image", {"kind": "random_resized_crop", "ratio": [0, 1]}, "value_error"),
        ("image", {"kind": "random_erasing", "scale": [0.5, 2]}, "value_error"),
        ("text", {"kind": "token_mask", "rate": 1}, "less_than"),
    ],
)
def test_unknown_steps_and_parameters_are_refused(part, step, why):
    with pytest.raises(ValidationError) as refused:
        AugmentConfig.model_validate({part: [step]})
    assert [e["type"] for e in refused.value.errors()] == [why]
