"""The verifier recognises rendered scenes, and differences from them."""

from dataclasses import replace

import numpy as np
import pytest

from amodal.data.scenes.render import render
from amodal.data.scenes.source import ScenesConfig
from amodal.data.scenes.verifier import compare, read_scene
from amodal.data.scenes.world import Object, Scene, sample_scene


# At 32 pixels the stripes of a small object are about one pixel wide.
@pytest.mark.parametrize(("size", "n", "share"), [(32, 200, 0.96), (64, 500, 0.99)])
def test_rendered_scenes_are_recognised_exactly(size, n, share):
    perfect = 0
    for i in range(n):
        scene = sample_scene(1, "iid", "train", i)
        found = read_scene(render(scene, size))
        assert found.background == scene.background
        perfect += compare(scene, found).perfect
    assert perfect / n >= share


def test_six_objects_are_recognised():
    scenes = [sample_scene(1, "count", "test", i, min_objects=4, max_objects=6) for i in range(150)]
    assert sum(compare(s, read_scene(render(s))).perfect for s in scenes) / 150 >= 0.99


def test_a_small_overlap_costs_little():
    scenes = [sample_scene(1, "iid", "test", i, max_overlap=0.15) for i in range(200)]
    assert sum(compare(s, read_scene(render(s))).perfect for s in scenes) / 200 >= 0.93


def test_noise_as_in_generated_images_is_tolerated():
    noise = np.random.default_rng(0)
    perfect = 0
    for i in range(100):
        scene = sample_scene(1, "iid", "test", i)
        image = render(scene) + noise.normal(0, 5, (64, 64, 3))
        perfect += compare(scene, read_scene(image.clip(0, 255).astype(np.uint8))).perfect
    assert perfect >= 90


@pytest.mark.parametrize(
    "change",
    [
        {"shape": "heart"},
        {"colour": "green"},
        {"size": "small"},
        {"texture": "dotted"},
        {"x": 0.2},
    ],
)
def test_one_wrong_attribute_is_detected(change):
    item = Object("circle", "red", "large", "solid", 0.5, 0.5)
    other = Object("star", "blue", "small", "striped", 0.85, 0.85)
    painted = read_scene(render(Scene((replace(item, **change), other))))
    agreement = compare(Scene((item, other)), painted)
    assert agreement.exact == 1
    assert not agreement.perfect
    assert agreement.matched == (1 if {"shape", "colour"} & set(change) else 2)


def test_positions_are_accurate_to_half_a_pixel():
    for i in range(50):
        scene = sample_scene(2, "iid", "train", i)
        found = read_scene(render(scene, 128))
        want = sorted((o.x, o.y) for o in scene.objects)
        have = sorted((o.x, o.y) for o in found.objects)
        np.testing.assert_allclose(have, want, atol=0.5 / 64)


def test_an_empty_image_has_no_objects():
    found = read_scene(render(Scene((), "beige")))
    assert found == Scene((), "beige")
    assert compare(found, found).f1 == 1.0


def test_an_image_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="square image"):
        read_scene(np.zeros((64, 32, 3), np.uint8))


def test_a_smear_lighter_than_its_background_is_no_object_and_hides_none():
    """What a model paints need not be a mixture of the ground with a colour."""
    source = ScenesConfig(size=40, image_size=64, min_objects=1, max_objects=1).open()
    for i in range(40):
        image, scene = source[i]["image"].copy(), source.scene(i)
        if scene.background == "grey" and scene.objects[0].y > 0.5:
            image[2:12, 2:12] = 255
            found = read_scene(image).objects
            assert [(o.shape, o.colour) for o in found if o.y > 0.4] == [
                (o.shape, o.colour) for o in scene.objects
            ]
            return
    raise AssertionError("no scene of the kind that this needs")
