"""`amodal train` and `amodal evaluate` as they are typed: what is written, and what errors say."""

import json
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import yaml
from PIL import Image


@pytest.fixture
def amodal(tmp_path, monkeypatch, run_command, small_recipe):
    """Runs the command in an empty folder; returns exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(yaml.safe_dump(small_recipe))
    return run_command


def test_a_run_without_a_calibration_gets_one_from_held_out_items(amodal):
    assert amodal("train", "recipe.yaml", "--out", "run")[0] == 0
    file = Path("run/match_threshold.json")
    file.unlink(missing_ok=True)
    _, _, err = amodal("evaluate", "run", "--on", "scenes:split=test,size=8")
    assert "8 items have a match" in err  # too few, which a larger source makes up for
    _, out, err = amodal("evaluate", "run", "--on", "scenes:split=test,size=40")
    assert "the best of 40 rows is correct for" in out.replace("\n", " ")
    assert "are in match_threshold.json" in err
    before = json.loads(file.read_text())
    assert before["source"] == "scenes/iid/test"
    _, _, err = amodal("evaluate", "run", "--on", "scenes:split=test,size=50")
    assert "match_threshold" not in err
    assert json.loads(file.read_text()) == before


def test_a_run_with_validation_data_is_calibrated_and_evaluated_on_it(amodal):
    validation = "data.validation={kind: scenes, size: 40, split: validation}"
    code, out, err = amodal("train", "recipe.yaml", "--out", "run", "--set", validation)
    assert (code, "are in match_threshold.json" in err) == (0, True)
    assert "the best of 40 rows is correct for" in out.replace("\n", " ")
    assert "is correct for" in Path("run/report.html").read_text()
    assert Path("run/plots/match_threshold.png").is_file()
    curves = json.loads(Path("run/match_threshold.json").read_text())["curves"]
    assert curves["image_to_text"]["queries"] == 40
    assert amodal("evaluate", "run")[0] == 0
    figures = json.loads(Path("run/evaluation/retrieval.json").read_text())
    assert figures["data/items"] == 40
    assert figures["data/truncated_text_share"] == 0
    assert 0 <= figures["keyword_search/text/recall@1"] <= 1


def test_a_learning_curve_is_printed_with_what_more_data_would_give(amodal):
    options = ["--set", "data.validation={kind: scenes, size: 20, split: validation}"]
    code, out, _ = amodal(
        "learning-curve", "recipe.yaml", *options, "--share", "0.5", "--share", "1"
    )
    assert code == 0
    assert "training items" in out
    assert Path("runs/recipe-curve/learning_curve.json").is_file()
    assert amodal("learning-curve", "recipe.yaml", *options, "--share", "0.5")[0] == 2


def test_a_run_is_trained_evaluated_and_described(amodal):
    code, out, _ = amodal("train", "recipe.yaml", "--out", "run")
    assert code == 0
    assert "text_to_image/recall@1" in out
    page = Path("run/report.html").read_text()
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    code, out, _ = amodal("evaluate", "run", "--on", "scenes:split=test,size=12", "--name", "held")
    assert code == 0
    figures = json.loads(Path("run/evaluation/held.json").read_text())
    assert figures["data/items"] == 12
    assert figures["retrieval/text_to_image/recall@10"] >= 0.5  # 10 of 12 images
    low = figures["retrieval/text_to_image/recall@1/low"]
    assert low <= figures["retrieval/text_to_image/recall@1"]
    code, out, _ = amodal(
        "evaluate", "run", "--on", "scenes:split=test,size=12", "--task", "zero-shot"
    )
    assert code == 0
    assert "zero_shot/top1" in out
    code, out, _ = amodal(
        *["evaluate", "run", "--on", "scenes:split=test,size=40", "--task", "probe"],
        *["--train-on", "scenes:split=train,size=60"],
    )
    assert code == 0
    assert "probe/" in out


def test_an_unknown_key_is_one_line_with_the_nearest_key(amodal):
    code, _, err = amodal("train", "recipe.yaml", "--set", "train.epoch=3")
    assert code == 1
    assert "unknown key `train.epoch`; did you mean `epochs`?" in err


def test_a_missing_recipe_is_one_line(amodal):
    code, _, err = amodal("train", "recipes.yaml")
    assert code == 1
    assert "no such recipe" in err
    assert "recipe.yaml" in err


def test_wrong_usage_has_exit_code_two(amodal):
    assert amodal("train")[0] == 2
    assert amodal("evaluate")[0] == 2
    assert amodal("evaluate", "run", "--on", "scenes", "--task", "smell")[0] == 2


def test_a_mistyped_run_is_no_question_to_the_hub(amodal, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)  # must not be called
    Path("runs/first").mkdir(parents=True)
    Path("runs/first/config.json").write_text("{}")
    for typed, message in {
        "nothing": "nothing: no such run folder; runs there: runs/first",
        "runs/frst": "runs/frst: no such run folder; did you mean runs/first?",
        "runs/other": "runs/other: no such run folder; runs there: runs/first",
        "rnus/first": "rnus/first: no such run folder; did you mean runs/first?",
        "models/quite-new": (
            "models/quite-new: no such run folder; runs there: runs/first; a model of the "
            "Hugging Face hub is named hub:models/quite-new"
        ),
        "runs": "runs: not a run folder, config.json is missing; did you mean runs/first?",
    }.items():
        code, _, err = amodal("evaluate", typed, "--on", "scenes:size=4")
        assert code == 1
        assert message in err


def test_a_model_that_the_hub_cannot_give_is_one_line(amodal, monkeypatch):
    def unreachable(name):
        raise ConnectionError("[Errno -3] name resolution")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    code, _, err = amodal("evaluate", "hub:somebody/model", "--on", "scenes:size=4")
    assert code == 1
    assert "hub:somebody/model: the Hugging Face hub cannot be reached" in err


def test_labels_that_are_not_there_are_asked_for(amodal, tmp_path):
    assert amodal("train", "recipe.yaml", "--out", "run")[0] == 0
    rows = ["image,caption"]
    for i in range(3):
        Image.fromarray(np.full((32, 32, 3), 60 * i, np.uint8)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,image {i}")
    Path("table.csv").write_text("\n".join(rows))
    code, _, err = amodal("evaluate", "run", "--on", "table.csv", "--task", "zero-shot")
    assert code == 1
    assert "label" in err
