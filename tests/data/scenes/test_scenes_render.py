"""Rendered scenes against an independent rendering, and their invariances."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from amodal.data.scenes.render import render
from amodal.data.scenes.world import BACKGROUNDS, COLOURS, SHAPES, Object, Scene, sample_scene


@pytest.mark.parametrize("size", [32, 64, 100, 256])
def test_an_image_is_uint8_and_reproducible(size):
    scene = sample_scene(0, "iid", "train", 3, max_objects=6)
    image = render(scene, size)
    assert image.shape == (size, size, 3)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, render(scene, size))
    np.testing.assert_array_equal(image[0, 0], BACKGROUNDS[scene.background])


def test_a_square_equals_one_drawn_by_pillow():
    scene = Scene((Object("square", "blue", "large", "solid", 0.5, 0.5),), "white")
    large = Image.new("RGB", (640, 640), BACKGROUNDS["white"])
    half = 0.76 * 0.182 * 640
    ImageDraw.Draw(large).rectangle(
        [320 - half, 320 - half, 320 + half, 320 + half], COLOURS["blue"]
    )
    want = np.asarray(large.resize((64, 64), Image.Resampling.BOX), np.float64)
    # Pixels on the edge may differ by one sample in six, each way.
    assert np.abs(render(scene) - want).max() < 255 / 4
    assert np.abs(render(scene) - want).mean() < 1.0


def test_the_image_of_the_mirrored_scene_is_the_mirrored_image():
    for i in range(50):
        scene = sample_scene(0, "iid", "train", i, max_objects=6)
        flipped = render(scene)[:, ::-1].astype(int)
        difference = np.abs(render(scene.mirrored()).astype(int) - flipped)
        # Positions are rounded to half a pixel, which a mirror may round the other way.
        assert difference.mean() < 4


@pytest.mark.parametrize("shape", SHAPES)
def test_an_object_covers_the_same_share_at_every_resolution(shape):
    scene = Scene((Object(shape, "red", "medium", "solid", 0.5, 0.5),), "white")

    def share(size):
        green = render(scene, size)[:, :, 1].astype(float)
        return ((248 - green) / (248 - COLOURS["red"][1])).mean()

    assert share(32) == pytest.approx(share(256), rel=0.03)


def test_later_objects_are_in_front():
    below = Object("circle", "red", "large", "solid", 0.5, 0.5)
    on_top = Object("circle", "blue", "small", "solid", 0.5, 0.5)
    assert tuple(render(Scene((below, on_top)))[32, 32]) == COLOURS["blue"]
    assert tuple(render(Scene((on_top, below)))[32, 32]) == COLOURS["red"]


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.5), (1.0, 1.0), (-0.1, 0.5), (2.0, 2.0)])
def test_objects_may_be_outside_the_image(x, y):
    scene = Scene((Object("circle", "red", "large", "striped", x, y),))
    assert (render(scene) != 248).any() == (x < 2)


def test_too_small_an_image_is_refused():
    with pytest.raises(ValueError, match="at least 8"):
        render(Scene(()), 4)
