"""Runs that generate images: whole folders, resume, metrics by the verifier, usage errors."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import amodal
from amodal.cli.commands import app
from amodal.data.scenes.source import ScenesConfig
from amodal.evaluators.text_to_image import (
    TextToImageResult,
    generate_for_captions,
    text_to_image_metrics,
)
from amodal.models.multimodal_transformer.model import MultimodalTransformer
from amodal.training.progress import ProgressCallbacks
from amodal.training.recipe import parse_recipe
from amodal.training.recipes.error import RecipeError
from amodal.training.run import train_run

SCENES = {"kind": "scenes", "image_size": 32, "max_objects": 2, "captions_per_scene": 2}
SOURCES = {
    "train": {**SCENES, "size": 48},
    "validation": {**SCENES, "split": "validation", "size": 8},
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tokenizer"
    values = {
        "data": SOURCES,
        "model": {
            "kind": "image_tokenizer", "size": 32, "patch_size": 4, "widths": [8, 16],
            "codebook_size": 24, "codebook_dim": 8, "num_res_blocks": 0,
        },
        "train": {"epochs": 1, "batch_size": 12, "precision": "fp32"},
    }  # fmt: skip
    train_run(parse_recipe(values, "test"), folder)
    return folder


def values(tokenizer, **train):
    return {
        "data": SOURCES,
        "model": {
            "kind": "multimodal_transformer",
            "tasks": ["text_to_image"],
            "image_tokenizer": str(tokenizer),
            "width": 32,
            "heads": 2,
            "decoder_layers": 1,
            "max_length": 80,
            "tokenizer": {"kind": "trained", "model": "word"},
        },
        "augment": {"image": ["horizontal_flip"]},
        "train": {"epochs": 2, "batch_size": 12, "precision": "fp32", "log_every": 1, **train},
    }


@pytest.fixture(scope="module")
def finished(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, train_run(parse_recipe(values(tokenizer), "test"), folder)


def test_a_run_draws_and_is_complete_without_its_image_tokenizer(finished, tokenizer, tmp_path):
    folder, result = finished
    model = amodal.load(folder)
    assert isinstance(model, MultimodalTransformer)
    assert model.generates_images
    (image,) = model.generate_images(["a red star"], seed=0)
    assert image.shape == (32, 32, 3)
    assert image.dtype == np.uint8
    named = {name for name in result.metrics if name.startswith("text_to_image/")}
    assert {
        "text_to_image/object_recall",
        "text_to_image/objects_and_relations_match",
        "text_to_image/caption_match",
        "text_to_image/nearest_training_distance",
    } <= named
    assert result.metrics["text_to_image/num_images"] == 8
    kept = amodal.load(tokenizer).state_dict()
    for name, tensor in model.image_tokens.tokenizer.state_dict().items():
        assert tensor.equal(kept[name])


class _Stop(Exception):
    pass


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(finished, tokenizer, tmp_path):
    whole, _ = finished
    recipe = parse_recipe(values(tokenizer), "test")

    def stop(step, logged):
        if step == 6:
            raise _Stop

    with pytest.raises(_Stop):
        train_run(recipe, tmp_path / "run", callbacks=ProgressCallbacks(logged=stop))
    train_run(recipe, tmp_path / "run", resume=True)
    lines = [
        [json.loads(line) for line in (f / "train_log.jsonl").read_text().splitlines()]
        for f in (whole, tmp_path / "run")
    ]
    losses = [{line["step"]: line["loss"] for line in log if "loss" in line} for log in lines]
    assert losses[0].keys() == losses[1].keys()
    for step, loss in losses[0].items():
        assert losses[1][step] == pytest.approx(loss, abs=1e-6)


def test_reference_images_are_correct_and_images_of_other_captions_are_not():
    source = ScenesConfig(**{**SCENES, "kind": "scenes", "size": 40, "split": "test"}).open()
    records = [source[i] for i in range(40)]
    images = [record["image"] for record in records]
    without_images = [{k: v for k, v in record.items() if k != "image"} for record in records]
    texts = [record["text"][0] for record in records]
    real = TextToImageResult(list(range(40)), texts, images, without_images, list(images))
    found = text_to_image_metrics(real, source, bootstrap=0)
    assert found["text_to_image/objects_and_relations_match"] >= 0.95
    assert found["text_to_image/caption_match"] >= 0.9
    assert (
        found["text_to_image/real_images/objects_and_relations_match"]
        == found["text_to_image/objects_and_relations_match"]
    )
    assert found["text_to_image/nearest_training_distance"] == pytest.approx(0, abs=1e-3)
    shifted = TextToImageResult(
        list(range(40)), texts, images[1:] + images[:1], without_images, list(images)
    )
    found = text_to_image_metrics(shifted, None, bootstrap=0)
    assert found["text_to_image/object_match"] <= 0.1
    assert found["text_to_image/objects_and_relations_match"] <= found["text_to_image/object_match"]
    assert found["text_to_image/object_recall"] < 0.3


def test_the_command_draws_a_sheet_and_evaluates(finished, tmp_path):
    folder, _ = finished
    out = tmp_path / "sheet.png"
    arguments = ["draw", str(folder), "a red star", "--out", str(out), "--count", "3"]
    said = CliRunner().invoke(app, [*arguments, "--seed", "1", "--scale", "2"])
    assert said.exit_code == 0, said.output
    with Image.open(out) as sheet:
        assert sheet.size == (3 * 64 + 2 * 2, 64)
    said = CliRunner().invoke(
        app, ["evaluate", str(folder), "--task", "text-to-image", "--limit", "4"]
    )
    assert said.exit_code == 0, said.output
    assert (
        json.loads((folder / "evaluation" / "text-to-image.json").read_text())[
            "text_to_image/num_images"
        ]
        == 4
    )


class Reranker:
    """Prefers the darkest image."""

    def encode(self, *, text=None, image=None, output):
        if text is not None:
            return torch.ones(len(text), 1)
        return torch.tensor([[-float(one.mean())] for one in image])


def test_the_reranker_keeps_one_candidate_of_each_caption(finished):
    folder, _ = finished
    model = amodal.load(folder, device="cpu")
    source = ScenesConfig(split="test", image_size=32, size=5, max_objects=2).open()
    best = generate_for_captions(model, source, candidates=3, reranker=Reranker(), seed=2)
    texts = [source[i]["text"][0] for i in range(5)]
    every = model.generate_images([text for text in texts for _ in range(3)], seed=2)
    assert len(best.images) == 5
    for i, image in enumerate(best.images):
        darkest = min(every[3 * i : 3 * i + 3], key=lambda one: one.mean())
        assert np.array_equal(image, darkest)
    with pytest.raises(ValueError, match="candidates"):
        generate_for_captions(model, source, candidates=3)


def test_wrong_usage_of_draw_is_told(finished, tokenizer, tmp_path):
    folder, _ = finished
    run = CliRunner().invoke
    said = run(app, ["draw", str(folder), "a star", "--candidates", "4"])
    assert said.exit_code == 2
    said = run(app, ["evaluate", str(folder), "--task", "text-to-image", "--candidates", "4"])
    assert said.exit_code == 2
    said = run(app, ["draw", str(folder), "a star", "--out", str(tmp_path / "a.exe")])
    assert said.exit_code == 2
    said = run(app, ["evaluate", str(folder), "--task", "vqa"])
    assert said.exit_code == 2
    assert "holds an image tokenizer" in str(run(app, ["draw", str(tokenizer), "a star"]).exception)
    assert "generates images and takes none" in str(
        run(app, ["ask", str(folder), str(tmp_path / "a.png"), "what?"]).exception
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_tokenizer": None}, "image_tokenizer: RUN"),
        ({"tasks": ["text_to_image", "caption"]}, "stands alone"),
        ({"encoders": {"image": {"kind": "small_cnn"}}}, "stands alone"),
        ({"tasks": ["caption"]}, "leave it out"),
    ],
)
def test_recipes_that_cannot_draw_are_refused(change, message, tokenizer):
    recipe = values(tokenizer)
    recipe["model"].update(change)
    with pytest.raises(RecipeError, match=message):
        parse_recipe(recipe, "test")


def test_a_tokenizer_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"nowhere.*scenes-image-tokenizer"):
        train_run(parse_recipe(values(tmp_path / "nowhere"), "test"), tmp_path / "run")
