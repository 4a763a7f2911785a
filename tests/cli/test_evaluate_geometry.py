"""`amodal evaluate --task geometry` as it is typed: what is printed, written and drawn."""

import json
from pathlib import Path

import pytest
import yaml

DATA = {
    "train": "scenes:split=train,size=40,image_size=32",
    "validation": "scenes:split=validation,size=12,image_size=32,captions_per_scene=2",
}


@pytest.fixture
def amodal(tmp_path, monkeypatch, run_command):
    """Runs the command in an empty folder; returns exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    return run_command


def test_geometry_of_the_validation_data_or_of_any_source(amodal, small_recipe):
    Path("recipe.yaml").write_text(yaml.safe_dump({**small_recipe, "data": DATA}))
    assert amodal("train", "recipe.yaml", "--out", "run")[0] == 0
    code, out, _ = amodal("evaluate", "run", "--task", "geometry")
    assert code == 0
    assert "gap/image_text/centroid" in out
    assert "run/evaluation/geometry.json" in out
    figures = json.loads(Path("run/evaluation/geometry.json").read_text())
    assert figures["data/items"] == 12
    assert figures["geometry/settings/alpha"] == figures["geometry/settings/t"] == 2
    assert figures["geometry/shared_items/image_text"] == 12
    chance = figures["geometry/mixed_gallery/text/same_modality_share/chance"]
    assert chance == pytest.approx(23 / 35)  # 12 images with 2 captions each, less the query
    drawn = {file.name for file in Path("run/evaluation/geometry").iterdir()}
    assert drawn == {
        "map.png",
        "spectrum.png",
        "gap_image_text.png",
        "similarity_image_text.png",
        "k_occurrence_image_text.png",
    }
    code, _, _ = amodal(
        *["evaluate", "run", "--task", "geometry", "--on", "scenes:split=test,size=9"],
        *["--name", "test.part"],
    )
    assert code == 0
    assert json.loads(Path("run/evaluation/test.part.json").read_text())["data/items"] == 9
    assert Path("run/evaluation/test.part/map.png").exists()
    assert amodal("evaluate", "run", "--task", "zero-shot")[0] == 2  # others still need a source
    code, _, err = amodal(
        "evaluate", "run", "--task", "geometry", "--on", "scenes:split=test,size=3"
    )
    assert code == 1
    assert "5 folds need at least as many items, got 3" in err


def test_a_recipe_without_validation_data_asks_for_a_source(amodal, small_recipe):
    values = {**small_recipe, "data": {"train": DATA["train"], "holdout": 0}}
    Path("recipe.yaml").write_text(yaml.safe_dump(values))
    assert amodal("train", "recipe.yaml", "--out", "run")[0] == 0
    code, _, err = amodal("evaluate", "run", "--task", "geometry")
    assert code == 1
    assert "--on" in err
