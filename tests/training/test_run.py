"""Whole runs on small data: complete folders, resume, and every way in which data can be bad."""

import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image

import amodal
from amodal.data.record import DataError
from amodal.models.run_folder import WEIGHTS
from amodal.training import trainer
from amodal.training.checkpoints import complete_checkpoints
from amodal.training.errors import RunError
from amodal.training.optim import precision
from amodal.training.progress import ProgressCallbacks
from amodal.training.recipe import load_recipe, parse_recipe
from amodal.training.recipes.error import RecipeError
from amodal.training.run import train_run

RECIPES = Path(__file__).parents[2] / "recipes"


def values(**train):
    scenes = {"kind": "scenes", "image_size": 32, "captions_per_scene": 2}
    return {
        "data": {
            "train": {**scenes, "split": "train", "size": 48},
            "validation": {**scenes, "split": "validation", "size": 12},
        },
        "model": {
            "encoders": {
                "image": {"kind": "small_cnn", "size": 32, "widths": [8, 16]},
                "text": {
                    "kind": "small_transformer",
                    "width": 16,
                    "layers": 1,
                    "heads": 2,
                    "max_length": 32,
                    "dropout": 0.1,
                },
            },
            "projection": {"kind": "linear", "dim": 16},
        },
        "augment": {"image": ["random_resized_crop", "horizontal_flip"], "text": ["token_mask"]},
        "train": {"epochs": 3, "batch_size": 12, "precision": "fp32", "ema": 0.9, **train},
    }


def log_of(folder):
    return [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    recipe = parse_recipe(values(log_every=1), "test")
    return folder, recipe, train_run(recipe, folder)


def test_a_run_folder_is_complete(finished):
    folder, recipe, result = finished
    for name in (
        "config.json",
        "model.safetensors",
        "image",
        "text",
        "recipe.yaml",
        "metrics.json",
        "train_log.jsonl",
        "broken_rows.json",
        "README.md",
    ):
        assert (folder / name).exists(), name
    assert load_recipe(folder / "recipe.yaml") == recipe
    metrics = json.loads((folder / "metrics.json").read_text())
    assert 0 <= metrics["retrieval/text_to_image/recall@1"] <= 1
    waited = [line["data_seconds"] for line in log_of(folder)]
    assert waited == sorted(waited)
    assert waited[0] > 0
    assert metrics["train/data_seconds"] == pytest.approx(waited[-1], abs=0.01)
    assert metrics["train/steps"] == result.steps == 12


def test_a_reopened_run_embeds_bit_equally(finished):
    folder, _, result = finished
    model = amodal.load(folder)
    text = ["a red circle", "a blue square to the left of a star"]
    image = [np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)]
    for values_ in ({"text": text}, {"image": image}):
        one, two = result.model.encode(**values_), model.encode(**values_)
        assert np.array_equal(one, two)
        np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1, rtol=1e-5)
    assert model.fingerprint() == result.model.fingerprint()


def test_the_log_has_losses_temperature_and_recall(finished):
    folder, _, _ = finished
    lines = log_of(folder)
    assert {line["step"] for line in lines} == set(range(1, 13))
    training = [line for line in lines if "loss" in line]
    assert all(line["loss/info_nce"] == pytest.approx(line["loss"], rel=1e-5) for line in training)
    assert all(0.01 <= line["temperature/info_nce"] <= 1 for line in training)
    recalls = [x["eval/mean_recall"] for x in lines if "eval/mean_recall" in x]
    assert len(recalls) == 3


def test_the_same_seed_gives_the_same_run_and_workers_change_nothing(finished, tmp_path):
    folder, _, _ = finished
    other = values(log_every=1)
    other["data"]["workers"] = 1
    train_run(parse_recipe(other, "test"), tmp_path / "again")
    want = [line["loss"] for line in log_of(folder) if "loss" in line]
    got = [line["loss"] for line in log_of(tmp_path / "again") if "loss" in line]
    assert got == pytest.approx(want, rel=1e-6)


def test_auto_precision_is_timed_on_the_model_and_changes_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "MIN_STEPS_TO_MEASURE", 2)
    monkeypatch.setattr(precision, "MIN_GAIN", 1.0)  # fp32, whatever the machine
    told = []
    for wanted in ("auto", "fp32"):
        recipe = parse_recipe(values(precision=wanted, epochs=1), "test")
        callbacks = ProgressCallbacks(warn=told.append)
        train_run(recipe, tmp_path / wanted, callbacks=callbacks)
    messages = [message for message in told if "precision" in message]
    assert len(messages) == 1
    assert re.match(r"precision: auto is fp32 on this CPU; a step takes .* s in fp32", messages[0])
    logs = [log_of(tmp_path / wanted) for wanted in ("auto", "fp32")]
    for line in itertools.chain(*logs):
        del line["seconds"], line["data_seconds"]
    assert logs[0] == logs[1]
    weights = [safetensors.torch.load_file(tmp_path / w / WEIGHTS) for w in ("auto", "fp32")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


def test_a_continued_run_keeps_the_precision_in_which_it_began(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "MIN_STEPS_TO_MEASURE", 2)
    monkeypatch.setattr(precision, "MIN_GAIN", 1.0)
    recipe = parse_recipe(values(precision="auto", epochs=2), "test")
    train_run(recipe, tmp_path / "run")
    told = []
    train_run(recipe, tmp_path / "run", resume=True, callbacks=ProgressCallbacks(warn=told.append))
    assert not [message for message in told if "precision" in message]
    state = complete_checkpoints(tmp_path / "run")[-1] / "amodal_state.json"
    assert json.loads(state.read_text())["precision"] == "fp32"


def test_a_finished_folder_is_not_overwritten(finished):
    folder, recipe, _ = finished
    with pytest.raises(RunError, match="--resume"):
        train_run(recipe, folder)


def test_another_recipe_does_not_resume_a_run(finished):
    folder, _, _ = finished
    with pytest.raises(RecipeError, match=r"train\.epochs"):
        train_run(parse_recipe(values(log_every=1, epochs=4), "test"), folder, resume=True)


def test_nothing_to_resume_is_said(tmp_path):
    with pytest.raises(RunError, match="nothing to resume"):
        train_run(parse_recipe(values(), "test"), tmp_path / "new", resume=True)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        train_run(parse_recipe(values(), "test"), tmp_path / "file" / "run")


def test_a_batch_of_one_row_is_refused(tmp_path):
    one = values()
    one["data"]["train"]["size"] = 1
    with pytest.raises(DataError, match="at least 2"):
        train_run(parse_recipe(one, "test"), tmp_path / "run")


def coco(folder, n, *, broken=()):
    """A COCO-layout data set of n coloured images with two captions each."""
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for i in range(n):
        name = f"{i}.jpg"
        if i not in broken:
            Image.fromarray(np.full((40, 60, 3), 7 * i, np.uint8)).save(folder / "images" / name)
        images.append({"id": i, "file_name": name})
        annotations += [
            {"id": 2 * i + j, "image_id": i, "caption": f"image number {i}, said {j}"}
            for j in range(2)
        ]
    path = folder / "captions.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return {"kind": "coco_captions", "images": str(folder / "images"), "annotations": str(path)}


def test_what_a_source_leaves_out_is_told_once(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for number in range(24):
            image = io.BytesIO()
            Image.fromarray(pixels[number]).save(image, "PNG")
            members = {"png": image.getvalue(), "txt": b"a dog %d" % number, "npy": b"x"}
            for suffix, content in members.items():
                info = tarfile.TarInfo(f"{number}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    recipe = values(epochs=1)
    recipe["data"] = {"train": {"kind": "webdataset", "path": str(tmp_path / "s.tar")}}
    recipe["data"]["holdout"] = 0.25
    told = []
    callbacks = ProgressCallbacks(warn=told.append)
    train_run(parse_recipe(recipe, "test"), tmp_path / "run", callbacks=callbacks)
    note = "s.tar: members that are not read: 24 (.npy 24, such as 0.npy)"
    assert told.count(note) == 1


def test_broken_images_are_skipped_counted_and_listed(tmp_path):
    recipe = values(epochs=2)
    source = coco(tmp_path / "data", 24, broken=(3, 5))
    truncated = tmp_path / "data/images/7.jpg"
    truncated.write_bytes(truncated.read_bytes()[:300])
    (tmp_path / "data/images/8.jpg").write_text("this is not an image")
    recipe["data"]["train"] = source
    result = train_run(parse_recipe(recipe, "test"), tmp_path / "run")
    listed = json.loads((tmp_path / "run/broken_rows.json").read_text())
    assert len(listed) == len(result.broken) == result.metrics["data/broken_rows"] == 4
    text = json.dumps(listed)
    for name in ("3.jpg", "5.jpg", "7.jpg", "8.jpg"):
        assert name in text


def test_an_empty_validation_set_is_refused_before_training(tmp_path):
    recipe = values()
    source = coco(tmp_path / "data", 4)
    empty = tmp_path / "data/empty.json"
    empty.write_text(json.dumps({"images": [], "annotations": []}))
    recipe["data"]["validation"] = {**source, "annotations": str(empty)}
    with pytest.raises(DataError, match=r"(?i)validation|empty\.json"):
        train_run(parse_recipe(recipe, "test"), tmp_path / "run")
    assert not (tmp_path / "run/train_log.jsonl").exists()


@pytest.mark.slow
def test_the_coco_recipe_takes_two_steps_on_a_fixture_with_random_weights(tmp_path):
    source = coco(tmp_path / "data", 16)
    recipe = yaml.safe_load((RECIPES / "coco-resnet50-bert.yaml").read_text())
    recipe["data"] |= {"train": source, "validation": source, "workers": 0}
    recipe["model"]["encoders"]["image"]["weights"] = None
    recipe["model"]["encoders"]["text"]["architecture"] = {
        "model_type": "bert",  # as wide as BERT-base, with 2 of its 12 layers
        "num_hidden_layers": 2,
    }
    recipe["train"] |= {"batch_size": 8, "micro_batch_size": 4, "epochs": 1, "precision": "fp32"}
    result = train_run(parse_recipe(recipe, "coco"), tmp_path / "run")
    assert result.steps == 2
    bert = result.model.encoders["text"]
    assert bert.width == 768
    assert result.model.encoders["image"].width == 2048
    assert np.isfinite([line["loss"] for line in log_of(tmp_path / "run") if "loss" in line]).all()


def start(recipe, folder):
    command = [sys.executable, "-m", "amodal", "train", str(recipe), "--out", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(condition, process, seconds=120):
    deadline = time.time() + seconds
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.time() < deadline, "the run did not get there in time"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A recipe, and the folder of its run."""
    # An epoch has 8 steps and checkpoints come every 3: a resume starts inside an epoch.
    recipe = values(batch_size=6, epochs=5, save_every=0.375, log_every=1, evaluate_every=2)
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    train_run(parse_recipe(recipe, "test"), folder)
    return recipe, folder


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_a_run_that_was_stopped_resumes_to_the_same_losses(uninterrupted, tmp_path, how):
    recipe, whole = uninterrupted
    path, cut = tmp_path / "recipe.yaml", tmp_path / "cut"
    path.write_text(yaml.safe_dump(recipe))
    process = start(path, cut)
    wait_for(lambda: len(complete_checkpoints(cut)) > 0, process)
    os.kill(process.pid, how)
    process.wait()
    assert process.returncode != 0
    before = complete_checkpoints(cut)[-1].name
    assert before != "checkpoint-40"
    train_run(parse_recipe(recipe, "test"), cut, resume=True)
    want, got = log_of(whole), log_of(cut)
    assert [line["step"] for line in got] == [line["step"] for line in want]
    for a, b in zip(want, got, strict=True):
        for name in a.keys() - {"seconds", "data_seconds"}:
            assert b[name] == pytest.approx(a[name], abs=1e-6), (before, a["step"], name)
    assert amodal.load(whole).fingerprint() == amodal.load(cut).fingerprint()


def test_growing_images_and_started_words_train_and_resume_reads_them(tmp_path):
    recipe = values(
        epochs=1,
        batch_size=12,
        progressive_resizing={"initial_size": 16, "end_fraction": 0.5},
        log_every=1,
    )
    recipe["model"]["encoders"]["image"] = {
        "kind": "timm",
        "name": "resnet10t",
        "weights": False,
        "size": 32,
    }
    recipe["model"]["encoders"]["text"]["embedding_init"] = "cooccurrence"
    sides = []
    from amodal.encoders.image.timm import TimmEncoder

    forward = TimmEncoder.forward
    with pytest.MonkeyPatch.context() as patch:

        def watched(self, pixel_values):
            if self.training:
                sides.append(pixel_values.shape[-1])
            return forward(self, pixel_values)

        patch.setattr(TimmEncoder, "forward", watched)
        result = train_run(parse_recipe(recipe, "test"), tmp_path / "run")
    assert sides == [16, 16, 32, 32]
    embedding = result.model.encoders["text"].embedding.weight
    words = result.model.preprocessors["text"].tokenizer.get_vocab()
    lengths = embedding.detach().norm(dim=1)[[i for w, i in words.items() if w.isalpha()]]
    assert lengths.std() < 0.02  # random rows of width 16 would spread by a sixth of their length


def test_growing_images_are_refused_where_positions_are_learned(tmp_path):
    recipe = parse_recipe(values(progressive_resizing={"initial_size": 16}), "test")
    with pytest.raises(RecipeError, match="progressive_resizing: small_cnn takes images of 32"):
        train_run(recipe, tmp_path / "run")


def test_a_normalization_is_fitted_on_training_rows_kept_and_applied_everywhere(tmp_path):
    recipe = values(epochs=1)
    plain = train_run(parse_recipe(recipe, "test"), tmp_path / "plain")
    recipe["model"]["normalization"] = ["center", "l2"]
    result = train_run(parse_recipe(recipe, "test"), tmp_path / "run")
    model = amodal.load(tmp_path / "run")
    texts = ["a red circle", "two blue stars"]
    z = model.encode(text=texts)
    chain = model.normalization
    assert chain.steps == ("center", "l2")
    want = chain.transform("text", torch.tensor(plain.model.encode(text=texts))).numpy()
    np.testing.assert_allclose(z, want, atol=1e-6)
    assert np.abs(z - plain.model.encode(text=texts)).max() > 0.01
    assert np.array_equal(z, result.model.encode(text=texts))
    assert result.metrics != plain.metrics
    assert model.fingerprint() != plain.model.fingerprint()
    model.save_pretrained(tmp_path / "copy")
    assert np.array_equal(amodal.load(tmp_path / "copy").encode(text=texts), z)
    recipe["model"]["normalization"] = ["center"]
    with pytest.raises(RecipeError, match="must end with l2"):
        parse_recipe(recipe, "test")


def test_unknown_words_are_counted_and_many_are_noted(tmp_path):
    recipe = values(epochs=1, batch_size=24)
    tokenizer = {"kind": "trained", "model": "word", "vocab_size": 16}
    recipe["model"]["encoders"]["text"]["tokenizer"] = tokenizer
    notes = []
    callbacks = ProgressCallbacks(warn=notes.append)
    result = train_run(parse_recipe(recipe, "test"), tmp_path / "run", callbacks=callbacks)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for where, key in (("training", ""), ("validation", "_validation")):
        share = metrics[f"data/unknown_text_tokens{key}"]
        assert 0.05 < share < 1
        (note,) = [n for n in notes if f"tokens of the {where} data are out of vocabulary" in n]
        assert note.startswith(f"{100 * share:.0f} % of the text tokens")
    assert result.metrics["data/unknown_text_tokens"] == metrics["data/unknown_text_tokens"]
