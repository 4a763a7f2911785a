"""A new input in the space of a run that stays as it is, bit for bit."""

import json
import shutil

import numpy as np
import pytest
import torch
from test_n_way import ENCODERS, data
from typer.testing import CliRunner

from amodal.cli.commands import app
from amodal.data.record import DataError
from amodal.data.sources.specification import parse_source
from amodal.models.joint_embedding import JointEmbedding
from amodal.search.embed import embed_source
from amodal.search.store import StoreError, VectorStore
from amodal.training.recipe import load_recipe, parse_recipe
from amodal.training.recipes.error import RecipeError
from amodal.training.run import train_run

TRAIN = {"epochs": 2, "batch_size": 8, "precision": "fp32", "log_every": 1}
HEAD = {"kind": "mlp", "dim": 8, "hidden": 16, "input_norm": "batch", "dropout": 0.5}


def recipe_of(source, encoders, train=TRAIN, **model):
    return parse_recipe(
        {
            "data": {"train": source, "holdout": 0},
            "model": {"encoders": encoders, "projection": {"kind": "linear", "dim": 8}, **model},
            "train": train,
        },
        "recipe",
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with the tables of `data`, and a run on images and captions."""
    folder = tmp_path_factory.mktemp("base")
    captioned, spoken = data(folder)
    both = {name: ENCODERS[name] for name in ("image", "text")}
    train_run(recipe_of(captioned, both, projection=HEAD), folder / "run")
    return folder, spoken


def with_audio(base, **options):
    folder, spoken = base
    audio = {"audio": ENCODERS["audio"]}
    return recipe_of(spoken, audio, base=str(folder / "run"), **options)


def embedded(model, folder):
    images = [str(folder / f"{i}.png") for i in range(24)]
    return model.encode(image=images), model.encode(text=["thing 1", "some other thing"])


@pytest.mark.parametrize("train", [{}, {"ema": 0.9}, {"optimizer": "muon"}])
def test_the_base_is_bit_identical_and_the_new_input_is_trained(base, tmp_path, train):
    folder, _ = base
    opened = JointEmbedding.from_pretrained(folder / "run")
    before = embedded(opened, folder)
    model = train_run(with_audio(base, train=TRAIN | train), tmp_path / "new").model
    again = JointEmbedding.from_pretrained(tmp_path / "new")
    for found in (model, again):
        for was, now in zip(before, embedded(found, folder), strict=True):
            assert np.array_equal(was, now)
    weights = again.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in opened.state_dict().items())
    assert again.inputs == ("image", "text", "audio")
    fresh = train_run(
        with_audio(base, train=TRAIN | {"epochs": 1e-6, **train}), tmp_path / "fresh"
    ).model
    audio = [str(folder / "20.wav")]
    assert not np.allclose(again.encode(audio=audio), fresh.encode(audio=audio), atol=1e-4)


def test_pairs_of_the_base_are_not_trained_and_others_may_be_left_out(base):
    assert with_audio(base).model.trained_pairs == (("image", "audio"), ("text", "audio"))
    chosen = with_audio(base, pairs=[["image", "audio"]])
    assert chosen.model.trained_pairs == (("image", "audio"),)
    assert chosen.cached_inputs() == ("image", "text")
    with pytest.raises(RecipeError, match="both of the base"):
        with_audio(base, pairs=[["image", "text"], ["image", "audio"]])


def test_an_index_of_the_base_is_searched_with_the_new_input(base, tmp_path):
    folder, spoken = base
    opened = JointEmbedding.from_pretrained(folder / "run")
    store = VectorStore.create(
        tmp_path / "index",
        opened.dim,
        fingerprint=opened.fingerprint(),
        model_path=folder / "run",
    )
    store.add(embed_source(opened, parse_source(f"{folder}/captioned.csv").open()))
    model = train_run(with_audio(base), tmp_path / "new").model
    options = ["--audio", str(folder / "20.wav"), "--run", str(tmp_path / "new"), "--json"]
    found = CliRunner().invoke(app, ["search", str(tmp_path / "index"), *options, "-k", "3"])
    assert found.exit_code == 0, found.output
    hits = json.loads(found.stdout)["hits"]
    scores = embedded(model, folder)[0] @ model.encode(audio=[str(folder / "20.wav")])[0]
    texts = [hit for hit in hits if hit["input"] == "text"]
    images = [hit for hit in hits if hit["input"] == "image"]
    assert len(hits) == 3
    assert all(hit["score"] <= scores.max() + 1e-5 for hit in images)
    assert texts or images
    other = train_run(
        recipe_of(spoken, {name: ENCODERS[name] for name in ("image", "audio")}),
        tmp_path / "other",
    ).model
    with pytest.raises(StoreError, match="other weights"):
        store.check_fingerprint(*other.fingerprints())


def test_a_run_is_read_where_its_base_is_gone(base, tmp_path):
    folder, spoken = base
    shutil.copytree(folder / "run", tmp_path / "moved")
    audio = {"audio": ENCODERS["audio"]}
    recipe = recipe_of(spoken, audio, base=str(tmp_path / "moved"))
    train_run(recipe, tmp_path / "new")
    shutil.rmtree(tmp_path / "moved")
    again = load_recipe(tmp_path / "new" / "recipe.yaml")
    assert again.model.trained_pairs == recipe.model.trained_pairs
    assert list(again.model.encoders) == ["image", "text", "audio"]
    assert JointEmbedding.from_pretrained(tmp_path / "new").dim == 8
    with pytest.raises(RecipeError, match="no such run folder"):
        recipe_of(spoken, audio, base=str(tmp_path / "moved"))


def test_what_does_not_fit_the_base_is_named(base, tmp_path):
    folder, spoken = base
    with pytest.raises(RecipeError, match="base: it brings image"):
        recipe_of(spoken, {"image": ENCODERS["image"]}, base=str(folder / "run"))
    with pytest.raises(RecipeError, match="new"):
        recipe_of(spoken, {}, base=str(folder / "run"))
    with pytest.raises(RecipeError, match="normalization would change"):
        with_audio(base, normalization=["l2"])
    with pytest.raises(DataError, match="16 dimensions, and the base has 8"):
        train_run(with_audio(base, projection={"kind": "linear", "dim": 16}), tmp_path / "new")
