"""Features of frozen encoders are computed once, and change nothing of what a run learns."""

import shutil
from pathlib import Path

import pytest
import torch
from frozen_runs import (
    ENCODERS,
    ROWS,
    VALUES,
    attention_pooled,
    count_features,
    fusion,
    losses,
    recipe_of,
    source_of,
    write_photos,
)
from PIL import Image

from amodal.data.feature_store import cache_folder
from amodal.models.frozen_features import FrozenEncoder
from amodal.training import features
from amodal.training.checkpoints import complete_checkpoints
from amodal.training.progress import ProgressCallbacks
from amodal.training.run import train_run
from amodal.training.trainer import RunTrainer


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def encoded(monkeypatch):
    """Number of values that frozen encoders were run on for the cache."""
    return count_features(monkeypatch)


@pytest.mark.parametrize(
    ("model", "tolerance"),
    [
        (None, 1e-5),
        (attention_pooled(), 1e-3),  # tokens are kept in half precision
        (fusion("concat"), 1e-5),
        (fusion("cross_attention"), 1e-3),
    ],
    ids=["joint_embedding", "attention pooling", "fusion", "fusion of tokens"],
)
def test_a_run_on_features_learns_what_a_run_on_values_learns(
    tmp_path, photos, encoded, model, tolerance, monkeypatch
):
    monkeypatch.chdir(photos)  # the paths decide what is held out: here never the broken image
    results = {}
    for kept in (True, False):
        data = {
            "train": source_of(Path()),
            "feature_cache": kept,
            "captions_per_item": 2 if model is None or "kind" not in model else 1,
        }
        recipe = recipe_of(photos, model=model, data=data)
        results[kept] = train_run(recipe, tmp_path / str(kept))
    assert sum(encoded) == VALUES
    with_features, without = (losses(tmp_path / str(kept)) for kept in (True, False))
    assert len(without) > 5
    assert with_features == pytest.approx(without, rel=tolerance, abs=tolerance)
    metrics = {
        kept: {n: v for n, v in result.metrics.items() if not n.startswith("train/")}
        for kept, result in results.items()
    }
    assert metrics[True] == pytest.approx(metrics[False], rel=1e-3, abs=tolerance * 100)
    origins = [[error.origin for error in results[kept].broken] for kept in (True, False)]
    assert sorted(origins[0]) == sorted(origins[1])
    assert origins[0]


def test_a_second_run_encodes_nothing(tmp_path, photos, encoded):
    train_run(recipe_of(photos), tmp_path / "first")
    computed = sum(encoded)
    assert computed
    train_run(recipe_of(photos, epochs=1, learning_rate=1e-3), tmp_path / "second")
    assert sum(encoded) == computed


def test_features_belong_to_content_and_not_to_paths(tmp_path, photos, encoded):
    moved = tmp_path / "moved"
    shutil.copytree(photos, moved)
    train_run(recipe_of(photos, epochs=1), tmp_path / "first")
    computed = sum(encoded)
    train_run(recipe_of(moved, epochs=1), tmp_path / "second")
    assert sum(encoded) == computed
    Image.new("RGB", (40, 40), "white").save(moved / "7.png")
    train_run(recipe_of(moved, epochs=1), tmp_path / "third")
    assert sum(encoded) == computed + 1


def test_another_size_of_images_gives_other_features(tmp_path, photos, encoded):
    train_run(recipe_of(photos, epochs=1), tmp_path / "first")
    larger = {**ENCODERS, "image": {**ENCODERS["image"], "size": 48}}
    model = {"encoders": larger, "projection": {"kind": "mlp", "dim": 16}}
    train_run(recipe_of(photos, model=model, epochs=1), tmp_path / "second")
    assert encoded.count(ROWS - 1) == 2  # the images of each run


def test_computing_goes_on_where_it_was_interrupted(tmp_path, photos, encoded, monkeypatch):
    monkeypatch.setattr(features, "AT_ONCE", 4)
    whole = FrozenEncoder.features

    def cut_off(self, tensors):
        if sum(encoded) >= 60:
            raise KeyboardInterrupt
        return whole(self, tensors)

    with monkeypatch.context() as patched:
        patched.setattr(FrozenEncoder, "features", cut_off)
        with pytest.raises(KeyboardInterrupt):
            train_run(recipe_of(photos), tmp_path / "run")
    assert sum(encoded) < 64
    train_run(recipe_of(photos), tmp_path / "run", resume=True)
    assert sum(encoded) == VALUES


def test_a_run_that_was_killed_ends_as_one_that_was_not(tmp_path, photos, encoded, monkeypatch):
    recipe = recipe_of(photos, ema=0.9)
    train_run(recipe, tmp_path / "whole")
    computed = sum(encoded)
    original = RunTrainer.training_step

    def dying(self, *args, **kwargs):
        if self.state.global_step == 6:
            raise ZeroDivisionError
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(RunTrainer, "training_step", dying)
        with pytest.raises(ZeroDivisionError):
            train_run(recipe, tmp_path / "cut")
    assert complete_checkpoints(tmp_path / "cut")
    train_run(recipe, tmp_path / "cut", resume=True)
    whole, cut = (tmp_path / name / "model.safetensors" for name in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()
    assert sum(encoded) == computed  # the weights of the frozen encoders were there before


def test_the_run_folder_encodes_files_as_ever(tmp_path, photos):
    recipe = recipe_of(photos)
    result = train_run(recipe, tmp_path / "run")
    assert result.train_source[0].keys() >= {"image", "text"}
    z = result.model.encode(image=[photos / "0.png", photos / "1.png"], output="torch")
    assert torch.allclose(z.norm(dim=1), torch.ones(2))


@pytest.mark.parametrize(
    ("augment", "expected"),
    [
        ({}, ("image", "text")),
        ({"text": ["token_mask"]}, ("image",)),
        ({"image": ["color_jitter"]}, ("text",)),
        ({"image": ["horizontal_flip"]}, ()),  # captions follow a flip
    ],
)
def test_values_that_augmentation_changes_are_encoded_at_each_step(photos, augment, expected):
    assert recipe_of(photos, augment=augment).cached_inputs() == expected


def test_what_is_trained_is_not_cached(photos):
    trained = {
        "image": {**ENCODERS["image"], "freeze": 1},
        "text": {**ENCODERS["text"], "lora": {"rank": 2}},
    }
    model = {"encoders": trained, "projection": {"kind": "linear", "dim": 8}}
    assert recipe_of(photos, model=model).cached_inputs() == ()
    assert recipe_of(photos, data={"feature_cache": False}).cached_inputs() == ()


def test_a_damaged_file_of_features_is_told_and_computed_anew(tmp_path, photos, encoded):
    train_run(recipe_of(photos, epochs=1), tmp_path / "first")
    computed = sum(encoded)
    for file in cache_folder().rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-3])
    told = []
    callbacks = ProgressCallbacks(warn=told.append)
    train_run(recipe_of(photos, epochs=1), tmp_path / "second", callbacks=callbacks)
    assert sum(encoded) == 2 * computed
    assert sum("computed anew" in text for text in told) == 2
