"""Runs of the image tokenizer: whole folders, resume, and what does not fit."""

import json

import pytest

import amodal
from amodal.data.record import DataError
from amodal.models.image_tokenizer import ImageTokenizer
from amodal.training.progress import ProgressCallbacks
from amodal.training.recipe import parse_recipe
from amodal.training.recipes.error import RecipeError
from amodal.training.run import train_run


def values(**train):
    scenes = {"kind": "scenes", "image_size": 16, "captions_per_scene": 1}
    return {
        "data": {
            "train": {**scenes, "size": 48},
            "validation": {**scenes, "split": "validation", "size": 8},
        },
        "model": {
            "kind": "image_tokenizer",
            "size": 16,
            "widths": [8, 16],
            "codebook_size": 24,
            "codebook_dim": 8,
            "num_res_blocks": 1,
        },
        "train": {"epochs": 3, "batch_size": 12, "precision": "fp32", "log_every": 1, **train},
    }


def log_of(folder):
    return [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]


class _Stop(Exception):
    pass


def test_a_run_is_complete_and_resumes_as_if_it_had_not_been_cut_off(tmp_path):
    parsed = parse_recipe(values(ema=0.9), "test")
    result = train_run(parsed, tmp_path / "whole")
    assert isinstance(amodal.load(tmp_path / "whole"), ImageTokenizer)
    assert result.metrics["reconstruction/psnr"] > 5
    assert 0 < result.metrics["reconstruction/codebook_usage"] <= 1
    assert "reconstruction/psnr" in (tmp_path / "whole" / "README.md").read_text()

    def stop(step, logged):
        if step == 7 and "loss" in logged:
            raise _Stop

    with pytest.raises(_Stop):
        train_run(parsed, tmp_path / "cut", callbacks=ProgressCallbacks(logged=stop))
    train_run(parsed, tmp_path / "cut", resume=True)
    want, got = log_of(tmp_path / "whole"), log_of(tmp_path / "cut")
    assert [line["step"] for line in got] == [line["step"] for line in want]
    for a, b in zip(want, got, strict=True):
        for name in a.keys() - {"seconds", "data_seconds"}:
            assert b[name] == pytest.approx(a[name], abs=1e-6), (a["step"], name)


def test_it_needs_images_and_its_own_objective(tmp_path):
    recipe = values()
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"caption": "words"}) + "\n")
    recipe["data"] = {"train": {"kind": "table", "path": str(file), "columns": {"image": None}}}
    with pytest.raises(DataError, match="no record has image"):
        train_run(parse_recipe(recipe, "test"), tmp_path / "run")
    with pytest.raises(RecipeError, match="one objective"):
        parse_recipe(values() | {"objectives": [{"kind": "info_nce"}]}, "test")
    wrong = values()
    wrong["model"]["widths"] = [8, 8, 8, 8, 8, 8]
    with pytest.raises(RecipeError, match="does not halve"):
        parse_recipe(wrong, "test")
