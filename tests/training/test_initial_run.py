"""Fine-tuning that starts from the heads of a finished run."""

import json
from contextlib import nullcontext

import pytest
import torch
from frozen_runs import ENCODERS, fusion, losses, recipe_of, source_of, write_photos
from safetensors.torch import load_file

from amodal.training.folder import OBJECTIVES
from amodal.training.kinds import kind_of_recipe, open_run, run_class
from amodal.training.progress import ProgressCallbacks
from amodal.training.recipes.error import RecipeError
from amodal.training.run import train_run
from amodal.training.sources import open_sources

LORA = {
    "image": {**ENCODERS["image"], "lora": {"rank": 2}},
    "text": {**ENCODERS["text"], "lora": {"rank": 2}},
}
BLOCKS = {
    "image": {**ENCODERS["image"], "freeze": 1},
    "text": {**ENCODERS["text"], "freeze": 0},
}
HEAD = {"kind": "mlp", "dim": 16, "input_norm": "batch", "dropout": 0.1}
ONE_CAPTION = {"captions_per_item": 1}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def embedding_run(photos, tmp_path_factory):
    """A joint embedding whose heads were trained on frozen encoders."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("AMODAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        model = {"encoders": ENCODERS, "projection": HEAD}
        folder = tmp_path_factory.mktemp("runs") / "photos"
        train_run(recipe_of(photos, model=model), folder)
    return folder


@pytest.fixture(scope="module")
def fusion_run(photos, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("AMODAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        folder = tmp_path_factory.mktemp("runs") / "fusion"
        train_run(recipe_of(photos, model=fusion("concat"), data=ONE_CAPTION), folder)
    return folder


def started(recipe):
    """The run of a recipe, before its first step."""
    return run_class(kind_of_recipe(recipe))(recipe, *open_sources(recipe), saved=None)


def first_evaluation(run):
    return run.task.evaluate(run.model.eval(), nullcontext)


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def embedding_recipe(photos, run, encoders, **options):
    model = {"encoders": encoders, "projection": HEAD, "init_from": str(run)}
    return recipe_of(photos, model={**model, **options.pop("model", {})}, **options)


@pytest.mark.parametrize("encoders", [ENCODERS, LORA, BLOCKS], ids=["frozen", "lora", "blocks"])
def test_the_first_evaluation_is_that_of_the_run(photos, embedding_run, encoders):
    run = started(embedding_recipe(photos, embedding_run, encoders))
    own, found = metrics_of(embedding_run), first_evaluation(run)
    shared = [name for name in found if name in own]
    assert len(shared) > 8
    assert {n: found[n] for n in shared} == pytest.approx({n: own[n] for n in shared}, abs=1e-6)
    temperature = load_file(embedding_run / OBJECTIVES)["info_nce.log_scale"]
    assert torch.equal(run.objectives.losses[0].log_scale.detach(), temperature)
    new = started(recipe_of(photos, model={"encoders": encoders, "projection": HEAD}))
    assert not torch.equal(new.objectives.losses[0].log_scale.detach(), temperature)
    assert first_evaluation(new) != pytest.approx(found, abs=1e-3)


@pytest.mark.parametrize("encoders", [LORA, BLOCKS], ids=["lora", "blocks"])
def test_the_first_evaluation_of_a_fusion_is_that_of_the_run(photos, fusion_run, encoders):
    model = {**fusion("concat"), "encoders": encoders, "init_from": str(fusion_run)}
    run = started(recipe_of(photos, model=model, data=ONE_CAPTION))
    own, found = metrics_of(fusion_run), first_evaluation(run)
    assert found
    shared = [name for name in found if name in own]
    assert {n: found[n] for n in shared} == pytest.approx({n: own[n] for n in shared}, abs=1e-5)
    assert run.model.target.classes == ("blue", "green", "grey", "red")


def test_what_was_taken_is_told_and_training_goes_on(photos, embedding_run, tmp_path):
    told = []
    recipe = embedding_recipe(photos, embedding_run, LORA, epochs=1, learning_rate=1e-3)
    callbacks = ProgressCallbacks(warn=told.append)
    train_run(recipe, tmp_path / "run", callbacks=callbacks)
    (line,) = [text for text in told if "init_from" in text]
    assert str(embedding_run) in line
    assert "tensors of heads" in line
    assert "1 of objectives" in line
    assert "not taken: none" in line
    assert "LoRA adapters" in line
    first = losses(tmp_path / "run")[0]
    assert first < losses(embedding_run)[0]


def test_the_tokenizer_is_that_of_the_run(photos, embedding_run, tmp_path):
    other = write_photos(tmp_path / "other")
    table = other / "photos.csv"
    table.write_text(table.read_text().replace("nothing", "something"))
    run = started(embedding_recipe(other, embedding_run, LORA))
    new = started(recipe_of(other, model={"encoders": LORA, "projection": HEAD}))
    models = (open_run(embedding_run), run.model, new.model)
    ids = [model.preprocessors["text"](["nothing"])["input_ids"].tolist() for model in models]
    assert ids[0] == ids[1] != ids[2]


def test_heads_of_other_shapes_are_named(photos, embedding_run):
    wider = {"projection": {**HEAD, "dim": 24}}
    with pytest.raises(RecipeError, match=r"projections.image.layers.\S+ is \(24, .*\(16, "):
        started(embedding_recipe(photos, embedding_run, LORA, model=wider))


def test_other_heads_are_refused(photos, embedding_run):
    linear = {"projection": {"kind": "linear", "dim": 16}}
    with pytest.raises(RecipeError, match="no head of the recipe"):
        started(embedding_recipe(photos, embedding_run, LORA, model=linear))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": [8, 24]}, r"model.encoders.image.widths is \[8, 24\], in .* \[8, 16\]"),
        ({"pooling": "max"}, "model.encoders.image.pooling is MaxPooling, in .* MeanPooling"),
    ],
)
def test_other_encoders_are_refused(photos, embedding_run, options, message):
    encoders = {**LORA, "image": {**LORA["image"], **options}}
    with pytest.raises(RecipeError, match=message):
        started(embedding_recipe(photos, embedding_run, encoders))


def test_a_run_with_adapters_needs_them(photos, embedding_run, tmp_path):
    adapted = tmp_path / "adapted"
    train_run(embedding_recipe(photos, embedding_run, LORA, epochs=1), adapted)
    started(embedding_recipe(photos, adapted, LORA))
    with pytest.raises(RecipeError, match="LoRA adapters that the run has"):
        started(embedding_recipe(photos, adapted, BLOCKS))


@pytest.mark.parametrize(
    ("target", "message"),
    [({"column": "caption"}, "target.column"), ({"classes": ["red", "blue"]}, "target.classes")],
)
def test_another_target_is_refused(photos, fusion_run, target, message):
    asked = {"task": "classification", "column": "label", **target}
    model = {**fusion("concat"), "target": asked, "init_from": str(fusion_run)}
    with pytest.raises(RecipeError, match=message):
        started(recipe_of(photos, model=model, data=ONE_CAPTION))


def test_a_run_that_is_not_there_or_of_another_kind_is_refused(photos, embedding_run, fusion_run):
    with pytest.raises(RecipeError, match=r"model\.init_from: .*no such run folder"):
        started(embedding_recipe(photos, "runs/nowhere", LORA))
    with pytest.raises(RecipeError, match=r"model\.init_from: .*a fusion model"):
        started(embedding_recipe(photos, fusion_run, LORA))


def test_a_resumed_run_does_not_start_anew(photos, embedding_run, tmp_path):
    recipe = embedding_recipe(photos, embedding_run, LORA, epochs=1)
    train_run(recipe, tmp_path / "run")
    saved = kind_of_recipe(recipe)
    again = run_class(saved)(recipe, *open_sources(recipe), saved=tmp_path / "run")
    assert not again.notes


def test_an_input_that_the_run_lacks_is_new(photos, embedding_run):
    sketch = {"type": "image", "kind": "small_cnn", "size": 32, "widths": [8, 16]}
    columns = {"image": "image", "text": "caption", "sketch": "image", "id": "id"}
    data = {"train": {**source_of(photos), "columns": columns}}
    encoders = {**LORA, "sketch": sketch}
    (told,) = started(embedding_recipe(photos, embedding_run, encoders, data=data)).notes
    assert "encoders.sketch" in told.partition("new: ")[2]
