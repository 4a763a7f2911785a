"""Augmented views of frozen inputs: computed once, and equal to those encoded in every step."""

import csv

import numpy as np
import pytest
import torch
from frozen_runs import (
    ENCODERS,
    ROWS,
    count_features,
    fusion,
    losses,
    recipe_of,
    source_of,
    write_photos,
)

from amodal.augment.config import RandomErasing
from amodal.augment.image import ImageAugmentation
from amodal.data.decode import decode_image
from amodal.data.features import FEATURES, FeatureSource
from amodal.modalities.image import ImageInput
from amodal.models.feature_cache import CachedViews, FeatureCache
from amodal.training.features import cached_views, compute_features
from amodal.training.kinds import kind_of_recipe, run_class
from amodal.training.progress import ProgressCallbacks
from amodal.training.recipes.error import RecipeError
from amodal.training.run import train_run
from amodal.training.sources import open_sources

VIEWS = 2
STEPS = {"image": ["random_resized_crop", "horizontal_flip", "color_jitter"]}
SIDES = "a red square to the left of the others"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def encoded(monkeypatch):
    """Number of values and views of each forward pass for the cache."""
    return count_features(monkeypatch)


def recipe_with_views(photos, *, data=None, **options):
    data = {"cached_views": VIEWS, **(data or {})}
    return recipe_of(photos, data=data, **{"augment": STEPS, **options})


def featured(recipe):
    """The model of a recipe, and its sources with their features."""
    train, validation = open_sources(recipe)
    train, validation = FeatureSource(train), FeatureSource(validation)
    model = run_class(kind_of_recipe(recipe))(recipe, train, validation, saved=None).model
    names, views = recipe.cached_inputs(), cached_views(recipe)
    compute_features(model, names, train, validation, ProgressCallbacks(), views=views)
    return model, train, validation


def usable(source):
    return [row for row in range(len(source)) if row not in source.broken]


def view_of(image, digest, prepare, steps, given=None):
    """(1, 3, S, S) the view with this digest of a decoded image, computed on its own."""
    augmentation = ImageAugmentation(steps, prepare.size, prepare.resize)
    rng = np.random.default_rng(int.from_bytes(digest, "big"))
    pixels, _ = augmentation([image], [rng], [given])
    return prepare.normalize(pixels)


def test_a_view_has_a_digest_for_its_value_steps_seed_and_number():
    steps, other = [RandomErasing()], [RandomErasing(probability=0.5)]
    flipped = {"horizontal_flip": False}
    found = [
        digest
        for value in (bytes(16), bytes(range(16)))
        for of_steps in (steps, other)
        for seed in (0, 1)
        for fixed in ({}, flipped)
        for digest in CachedViews(2, of_steps, seed).digests(value, fixed)
    ]
    assert len(set(found)) == 32
    assert CachedViews(3, steps, 0).digests(bytes(16), {})[:2] == found[:2]


def test_each_view_has_the_features_of_the_augmented_image(photos):
    recipe = recipe_with_views(photos)
    model, train, validation = featured(recipe)
    cache = FeatureCache(model, "image")
    views, prepare = cached_views(recipe)["image"], model.preprocessors["image"]
    different = 0
    for row in usable(train):
        record = train[row]
        found = record[FEATURES]["image"]
        assert found.rows.shape == (1, 1 + VIEWS)
        tokens = found.table.gather(found.rows[0])["cached_tokens"]
        image = decode_image(record["image"], "here", min_size=prepare.size)
        digests = views.digests(cache.digest(record["image"], "here"), {})
        views_of = [view_of(image, digest, prepare, views.steps) for digest in digests]
        parts = [prepare([image]), *views_of]
        pixels = torch.cat([part["pixel_values"] for part in parts])
        expected = cache.encoder.features({"pixel_values": pixels})
        torch.testing.assert_close(tokens, torch.stack(expected), atol=1e-5, rtol=1e-5)
        different += not torch.allclose(tokens[1], tokens[2], atol=1e-4)
    assert different > ROWS // 2
    assert validation[0][FEATURES]["image"].rows.shape == (1, 1)


def test_a_run_on_cached_views_learns_what_one_learns_that_encodes_them_in_every_step(
    tmp_path, photos, monkeypatch
):
    recipe = recipe_with_views(photos)
    train_run(recipe, tmp_path / "cached")
    model, train, _ = featured(recipe)
    cache, views = FeatureCache(model, "image"), cached_views(recipe)["image"]
    digest_of = {}
    for row in usable(train):
        value = train[row]["image"]
        image = decode_image(value, "here", min_size=cache.prepare.size)
        digest_of[image.tobytes()] = cache.digest(value, "here")
    evaluated = ImageInput.batch

    def drawn(self, values, context):
        """One of the same views, or the image as it is, by the draw that the cache makes."""
        found = evaluated(ImageInput(self.name, self.prepare), values, context)
        for i, image in enumerate(values):
            if self.augmentation is None or image is None:
                continue
            choice = int(context.rngs[i].integers(1 + VIEWS, size=1)[0])
            if choice:
                digest = views.digests(digest_of[image.tobytes()], {})[choice - 1]
                view = view_of(image, digest, self.prepare, views.steps)
                found.tensors["pixel_values"][i] = view["pixel_values"][0]
        return found

    monkeypatch.setattr(ImageInput, "batch", drawn)
    every_step = recipe_of(photos, augment=STEPS, data={"feature_cache": False})
    train_run(every_step, tmp_path / "encoded")
    cached, encoded = losses(tmp_path / "cached"), losses(tmp_path / "encoded")
    assert len(cached) > 5
    assert cached == pytest.approx(encoded, rel=1e-5, abs=1e-5)
    without = recipe_of(photos)
    train_run(without, tmp_path / "without")
    assert losses(tmp_path / "without")[0] != pytest.approx(cached[0], rel=1e-5)


def test_views_are_shared_by_runs_with_the_same_steps_and_seed(tmp_path, photos, encoded):
    def computed(name, **options):
        encoded.clear()
        train_run(recipe_with_views(photos, epochs=1, **options), tmp_path / name)
        return sum(encoded)

    images = ROWS - 1
    train = images - len(open_sources(recipe_with_views(photos))[1])
    of_views = computed("first") - images - 2 * ROWS
    assert of_views in (VIEWS * train, VIEWS * (train + 1))  # the broken one is on either side
    assert computed("again", learning_rate=1e-3) == 0
    assert computed("more", data={"cached_views": VIEWS + 1}) == of_views // VIEWS
    assert computed("steps", augment={"image": ["color_jitter"]}) == of_views


@pytest.fixture
def sides(tmp_path):
    """The table, with a caption of the first image that says left."""
    folder = write_photos(tmp_path / "sides")
    with (folder / "photos.csv").open() as file:
        rows = list(csv.DictReader(file))
    rows[1]["caption"] = SIDES
    with (folder / "photos.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return folder


@pytest.mark.parametrize("model", [None, fusion("concat")], ids=["joint_embedding", "fusion"])
def test_what_a_caption_says_of_sides_is_never_mirrored(sides, model):
    flip = {"image": [{"kind": "horizontal_flip", "probability": 1.0}]}
    captions = {"captions_per_item": 1, "holdout": 0.1}
    recipe = recipe_with_views(sides, augment=flip, model=model, data=captions)
    assert recipe.cached_inputs() == ("image", "text")
    model, train, _ = featured(recipe)
    mirrored = 0
    for row in usable(train):
        record = train[row]
        found = record[FEATURES]["image"]
        tokens = found.table.gather(found.rows[0])["cached_tokens"]
        same = torch.allclose(tokens[0], tokens[1], atol=1e-5)
        assert same == (SIDES in record["text"])
        mirrored += not same
    assert mirrored > ROWS // 2


def test_another_image_of_the_item_is_not_mirrored_without_it(photos):
    encoders = {
        "image": ENCODERS["image"],
        "sketch": {"type": "image", **ENCODERS["image"]},
    }
    model = {"encoders": encoders, "projection": {"kind": "linear", "dim": 8}}
    flip = {"image": [{"kind": "horizontal_flip", "probability": 1.0}]}
    columns = {"image": "image", "sketch": "image", "id": "id"}
    data = {"train": {**source_of(photos), "columns": columns}}
    recipe = recipe_with_views(photos, augment=flip, model=model, data=data)
    _, train, _ = featured(recipe)
    for row in usable(train):
        found = train[row][FEATURES]["image"]
        tokens = found.table.gather(found.rows[0])["cached_tokens"]
        torch.testing.assert_close(tokens[0], tokens[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": {}}, "augmentation steps"),
        ({"data": {"feature_cache": False}}, "feature_cache"),
        ({"augment": {"text": ["token_mask"]}, "data": {"cached_views": -1}}, "cached_views"),
    ],
)
def test_views_of_nothing_are_refused(photos, options, message):
    with pytest.raises(RecipeError, match=message):
        recipe_with_views(photos, **options)


def test_mirrored_views_of_conversations_are_refused(photos):
    model = {
        "kind": "multimodal_transformer",
        "tasks": ["caption"],
        "encoders": {"image": ENCODERS["image"]},
        "width": 16,
        "heads": 2,
    }
    with pytest.raises(RecipeError, match="conversations"):
        recipe_with_views(photos, model=model)
    assert recipe_with_views(photos, model=model, augment={"image": ["color_jitter"]})


def test_the_views_of_a_text_are_masked_anew(photos):
    recipe = recipe_with_views(photos, augment={"text": ["token_mask"]})
    assert recipe.cached_inputs() == ("image", "text")
    _, train, _ = featured(recipe)
    found = train[0][FEATURES]["text"]
    assert found.rows.shape == (2, 1 + VIEWS)
    tokens = found.table.gather(found.rows[0])["cached_tokens"]
    assert not torch.allclose(tokens[0], tokens[1])
    assert not torch.allclose(tokens[1], tokens[2])
