"""Features that training has kept are taken by whoever embeds or predicts with the run."""

import sys

import numpy as np
import pytest
from frozen_runs import ENCODERS, ROWS, VALUES, attention_pooled, fusion, recipe_of, write_photos
from PIL import Image

from amodal.cli import main as cli
from amodal.data.feature_store import cache_folder
from amodal.encoders.image.small_cnn import SmallCNN
from amodal.encoders.text.small_transformer import SmallTransformer
from amodal.evaluators.embedding import embed_items
from amodal.evaluators.prediction import predict_items, read_batches
from amodal.models.feature_cache import feature_caches
from amodal.search.embed import embed_source
from amodal.serving.served import open_served
from amodal.training.features import use_feature_caches
from amodal.training.kinds import open_run
from amodal.training.run import train_run
from amodal.training.sources import open_for_run

QUIET = {"warn": pytest.fail}
EVALUATED = 3 * (ROWS - 1)  # evaluation leaves out the captions of a broken image


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def encoded(monkeypatch):
    """Number of values of each forward pass of any encoder."""
    counts = []
    for kind in (SmallCNN, SmallTransformer):
        original = kind.forward

        def counted(self, *args, original=original, **tensors):
            counts.append(len((*args, *tensors.values())[0]))
            return original(self, *args, **tensors)

        monkeypatch.setattr(kind, "forward", counted)
    return counts


@pytest.fixture
def train(tmp_path, photos):
    """A function that trains a run and gives its folder."""

    def trained(**options):
        folder = tmp_path / "run"
        train_run(recipe_of(photos, epochs=1, **options), folder)
        return folder

    return trained


def both(run, source, **options):
    """The model of a run with and without the cache, and a source for it."""
    cached, plain = open_run(run), open_run(run)
    use_feature_caches(run, cached, **{**QUIET, **options})
    return cached, plain, open_for_run(run, plain, str(source))


def rows_of(model, source):
    found = embed_source(model, source)
    return {(r.id, r.input, r.row): r.embedding for r in found if hasattr(r, "embedding")}


def assert_close(found, expected, tolerance=1e-5):
    assert found.keys() == expected.keys()
    assert found
    for key, z in found.items():
        np.testing.assert_allclose(z, expected[key], atol=tolerance)


def test_a_source_that_was_trained_on_is_embedded_without_an_encoder(photos, train, encoded):
    cached, plain, source = both(train(), photos / "photos.csv")
    encoded.clear()
    found = rows_of(cached, source)
    assert not encoded
    assert_close(found, rows_of(plain, source))
    assert sum(encoded) == VALUES == len(found)


@pytest.fixture
def more(photos, tmp_path):
    """The table with one more image and two more captions of another."""
    folder = tmp_path / "more"
    write_photos(folder)
    Image.new("RGB", (40, 40), "white").save(folder / "new.png")
    with (folder / "photos.csv").open("a") as file:
        file.write("new.png,a new one,red,new\nnew.png,a second new one,red,new\n")
    return folder / "photos.csv"


@pytest.mark.parametrize("keep", [True, False])
def test_what_is_not_cached_is_computed_and_kept_where_asked(train, more, encoded, keep):
    run = train()
    cached, plain, source = both(run, more, keep=keep)
    encoded.clear()
    found = rows_of(cached, source)
    assert sum(encoded) == 3
    assert_close(found, rows_of(plain, source))
    again, _, _ = both(run, more, keep=keep)
    encoded.clear()
    assert_close(rows_of(again, source), found)
    assert sum(encoded) == (0 if keep else 3)


def test_evaluation_takes_features_of_batches_that_are_known(train, more, photos, encoded):
    run = train()
    cached, plain, source = both(run, photos / "photos.csv")
    encoded.clear()
    found = embed_items(cached, source)
    assert not encoded
    expected = embed_items(plain, source)
    assert sum(encoded) == EVALUATED
    assert [e.origin for e in found.broken] == [e.origin for e in expected.broken]
    for name, rows in found.rows.items():
        np.testing.assert_allclose(rows.z, expected.rows[name].z, atol=1e-5)
        assert rows.item.tolist() == expected.rows[name].item.tolist()
    cached, plain, source = both(run, more)
    found, expected = embed_items(cached, source, batch_size=20), embed_items(plain, source)
    assert len(found.rows["image"].z) == ROWS
    np.testing.assert_allclose(found.rows["image"].z, expected.rows["image"].z, atol=1e-5)


def test_a_fusion_predicts_from_features_and_is_tested_on_corrupted_values(photos, train, encoded):
    run = train(model=fusion("concat"), data={"captions_per_item": 1})
    cached, plain, source = both(run, photos / "photos.csv")
    encoded.clear()
    found = predict_items(cached, source)
    assert not encoded
    np.testing.assert_allclose(found.logits, predict_items(plain, source).logits, atol=1e-5)
    encoded.clear()
    assert list(read_batches(cached, source))  # for robustness, which corrupts values
    assert "pixel_values" in next(iter(read_batches(cached, source))).tensors["image"]


@pytest.mark.parametrize("feature_cache", [True, False])
def test_tokens_in_half_precision_are_for_models_that_trained_on_them(photos, train, feature_cache):
    run = train(model=attention_pooled())
    cached, plain, source = both(run, photos / "photos.csv")
    assert set(feature_caches(cached)) == {"image", "text"}
    assert_close(rows_of(cached, source), rows_of(plain, source), 1e-2)


def test_other_models_do_not_take_them(photos, train):
    run = train(model=attention_pooled(), augment={"image": ["color_jitter"]})
    assert set(feature_caches(both(run, photos / "photos.csv")[0])) == {"text"}


def test_a_run_without_a_feature_cache_takes_nothing_from_it(photos, train):
    run = train(data={"feature_cache": False})
    assert not feature_caches(both(run, photos / "photos.csv")[0])
    assert not cache_folder().exists() or not list(cache_folder().rglob("*.safetensors"))


def test_what_is_trained_is_never_cached(photos, train):
    part = {**ENCODERS, "image": {**ENCODERS["image"], "freeze": 1}}
    run = train(model={"encoders": part, "projection": {"kind": "linear", "dim": 8}})
    assert set(feature_caches(both(run, photos / "photos.csv")[0])) == {"text"}


def test_a_damaged_file_is_told_and_its_features_are_computed(photos, train, encoded):
    run = train()
    for file in cache_folder().rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-3])
    told = []
    cached, plain, source = both(run, photos / "photos.csv", warn=told.append)
    assert len(told) == 2
    assert all("computed anew" in text for text in told)
    encoded.clear()
    found = rows_of(cached, source)
    assert VALUES <= sum(encoded) <= VALUES + 4  # two images twice, to test the quicker copy
    assert_close(found, rows_of(plain, source))


def test_the_commands_take_the_cache_and_leave_it(photos, train, encoded, tmp_path, monkeypatch):
    def run_command(*words):
        monkeypatch.setattr(sys, "argv", ["amodal", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code

    run, table = str(train()), str(photos / "photos.csv")
    encoded.clear()
    for command in (
        ["index", run, table, "--out", str(tmp_path / "index")],
        ["embed", run, table, "--out", str(tmp_path / "embeddings")],
        ["evaluate", run, "--on", table],
    ):
        run_command(*command)
        assert not encoded, command[0]
        if command[0] != "evaluate":
            command[-1] += "-without"
        run_command(*command, "--no-feature-cache")
        assert sum(encoded) == (EVALUATED if command[0] == "evaluate" else VALUES), command[0]
        encoded.clear()


def test_what_is_served_takes_the_cache(train):
    served = open_served(train(), **QUIET)
    assert set(feature_caches(served.embedding_model)) == {"image", "text"}
