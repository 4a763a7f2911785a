"""`amodal ask` with a run that chooses its answers from a list."""

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

import amodal
from amodal.cli.commands import app
from amodal.data.scenes.source import ScenesConfig
from amodal.training.recipe import parse_recipe
from amodal.training.run import train_run

SCENES = {"kind": "scenes", "image_size": 32, "questions_per_scene": 4, "captions_per_scene": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    values = {
        "data": {
            "train": {**SCENES, "size": 32},
            "validation": {**SCENES, "split": "validation", "size": 8},
        },
        "model": {
            "kind": "multimodal_transformer", "tasks": ["vqa", "caption"],
            "answer_head": {"kind": "classification", "max_answers": 5},
            "encoders": {"image": {"kind": "small_cnn", "size": 32, "widths": [8, 16]}},
            "width": 32, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "max_length": 96,
            "tokenizer": {"kind": "trained", "model": "word"},
        },
        "train": {"epochs": 1, "batch_size": 8, "micro_batch_size": 4, "precision": "fp32"},
    }  # fmt: skip
    train_run(parse_recipe(values, "test"), folder)
    return folder


@pytest.fixture
def image(tmp_path):
    file = tmp_path / "image.png"
    Image.fromarray(ScenesConfig(**SCENES).open()[0]["image"]).save(file)
    return file


def test_an_answer_is_of_the_vocabulary_and_has_an_attention_map(run, image, tmp_path):
    listed = json.loads((run / "config.json").read_text())["architecture"]["answers"]
    attention = tmp_path / "attention.png"
    arguments = ["ask", str(run), str(image), "is there a star?", "--attention", str(attention)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0] in listed
    assert len(listed) == 5
    with Image.open(attention) as shown:
        assert min(shown.size) > 100


def test_words_that_the_model_cannot_read_are_told(run, image):
    said = CliRunner().invoke(app, ["ask", str(run), str(image), "is there a Zebra or a [b]?"])
    assert said.exit_code == 0, said.output
    assert said.stderr.startswith("note: out of vocabulary: Zebra")
    assert len(said.stdout.splitlines()) == 1
    said = CliRunner().invoke(app, ["ask", str(run), str(image), "is there a star?"])
    assert "out of vocabulary" not in said.output
    turns = amodal.load(run).chat_template
    assert turns.unknown("a zebra, a star: zebra") == ["zebra"]


def test_answers_outside_the_list_are_counted_in_the_metrics(run):
    metrics = json.loads((run / "metrics.json").read_text())
    assert 0 < metrics["vqa/out_of_vocabulary_answers"] < 1
    assert metrics["vqa/exact_match"] <= 1 - metrics["vqa/out_of_vocabulary_answers"]


def test_a_run_with_a_list_is_evaluated_and_still_describes(run, image):
    said = CliRunner().invoke(app, ["evaluate", str(run), "--task", "vqa"])
    assert said.exit_code == 0, said.output
    measured = json.loads((run / "evaluation" / "vqa.json").read_text())
    assert (
        measured["vqa/exact_match"]
        == json.loads((run / "metrics.json").read_text())["vqa/exact_match"]
    )
    assert CliRunner().invoke(app, ["caption", str(run), str(image)]).exit_code == 0
