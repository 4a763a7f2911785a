"""Sources that are read as those of a run were: columns, types, what may be missing."""

from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import yaml
from PIL import Image

from amodal.data.record import DataError
from amodal.encoders.tabular import TabularPreprocessor
from amodal.models.target import TargetConfig
from amodal.training.progress import ProgressCallbacks
from amodal.training.recipe import load_recipe, parse_recipe
from amodal.training.recipes.data import DataRecipe
from amodal.training.sources import open_for_run, open_sources, stream_for_run

ROWS = ["photo,words,rooms,zip,price", "a.png,flat,2,8001,10", "a.png,,3,,20", ",hut,1,8002,5"]
ENCODERS = {
    "image": {"kind": "small_cnn"},
    "text": {"kind": "small_transformer"},
    "columns": {"kind": "columns", "numerical": ["rooms"], "categorical": ["zip"]},
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run folder of a fusion, as far as sources need it, in the working directory."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.csv").write_text("\n".join(ROWS) + "\n")
    columns = {"image": "photo", "text": "words", "empty_cells": "missing"}
    table = {"kind": "table", "path": "train.csv", "columns": columns}
    recipe = {
        "data": {"train": table, "validation": {**table, "path": "validation.csv"}},
        "model": {
            "kind": "fusion",
            "encoders": ENCODERS,
            "fusion": {"kind": "concat"},
            "target": {"task": "regression", "column": "price"},
        },
    }
    (tmp_path / "run").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "run" / name).touch()
    (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path / "run"


@pytest.fixture
def model():
    columns = TabularPreprocessor(["rooms"], ["zip"], [2.0], [1.0], [["8001", "8002"]])
    return SimpleNamespace(
        types={"image": "image", "text": "text", "columns": "columns"},
        preprocessors={"image": None, "text": None, "columns": columns},
        target=TargetConfig(task="regression", column="price"),
    )


def table(folder, name, rows):
    (folder.parent / name).write_text("\n".join(rows) + "\n")
    return name


def test_a_bare_table_is_read_with_the_columns_of_the_run(run, model):
    source = open_for_run(run, model, table(run, "new.csv", ROWS))
    found = [source[i] for i in range(len(source))]
    assert [sorted({"image", "text"} & record.keys()) for record in found] == [
        ["image", "text"], ["image"], ["text"],
    ]  # fmt: skip
    assert [record["zip"] for record in found] == ["8001", "", "8002"]
    assert [record["rooms"] for record in found] == [2, 3, 1]
    assert len({record["id"] for record in found}) == 3


@pytest.mark.parametrize(("column", "hint"), [("Rooms", "the nearest is 'Rooms'"), ("other", "")])
def test_a_column_renamed_or_absent_when_predicting_is_refused(run, model, column, hint):
    name = table(run, "new.csv", [ROWS[0].replace("rooms", column), *ROWS[1:]])
    for reads in (open_for_run, stream_for_run):
        with pytest.raises(DataError, match=rf"no record has a column 'rooms'.*{hint}.*missing"):
            reads(run, model, name)
        assert len(reads(run, model, name, allow_missing=True)) == 3


@pytest.mark.parametrize("name", ["image", "text"])
def test_an_input_without_its_column_is_refused_or_missing_in_every_row(run, model, name):
    header, *rows = (row.split(",") for row in ROWS)
    column = load_recipe(run / "recipe.yaml").data.train.columns.inputs[name][0]
    place = header.index(column)
    lines = [",".join(row[:place] + row[place + 1 :]) for row in (header, *rows)]
    file = table(run, "new.csv", lines)
    for reads in (open_for_run, stream_for_run):
        with pytest.raises(DataError, match=f"no column '{column}'.*--allow-missing"):
            reads(run, model, file)
        source = reads(run, model, file, allow_missing=True)
        assert [record.get(name) for record in source] == [None] * 3


def test_a_column_that_validation_lacks_is_refused_before_training(run):
    table(run, "validation.csv", [ROWS[0].replace("zip", "ZIP"), *ROWS[1:]])
    with pytest.raises(DataError, match=r"no record has a column 'zip'.*nearest is 'ZIP'"):
        open_sources(load_recipe(run / "recipe.yaml"))


def test_rows_of_a_fusion_stay_apart_in_training(run):
    table(run, "validation.csv", ROWS)
    train, validation = open_sources(load_recipe(run / "recipe.yaml"))
    assert (len(train), len(validation)) == (3, 3)
    assert train[0]["zip"] == "8001"


def test_near_duplicates_are_held_out_together_and_told(tmp_path):
    rows = ["image,caption"]
    for i in range(40):
        low = np.random.default_rng(i // 2).integers(0, 255, (6, 6, 3), np.uint8)
        side = 64 * (1 + i % 2)  # the same image in two sizes
        image = Image.fromarray(low).resize((64, 64)).resize((side, side), Image.Resampling.NEAREST)
        image.save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,photo number {i}")
    (tmp_path / "photos.csv").write_text("\n".join(rows))
    values = {
        "data": {"train": str(tmp_path / "photos.csv"), "holdout": 0.2},
        "model": {
            "encoders": {"image": {"kind": "small_cnn"}, "text": {"kind": "small_transformer"}}
        },
    }

    def sides(near_duplicates):
        told = []
        recipe = parse_recipe(values, "test")
        data = recipe.data.model_copy(update={"near_duplicates": near_duplicates})
        recipe = recipe.model_copy(update={"data": data})
        parts = open_sources(recipe, ProgressCallbacks(warn=told.append))
        ids = [[part[i]["id"] for i in range(len(part))] for part in parts]
        return [{int(name.removesuffix(".png")) // 2 for name in one} for one in ids], told

    for choice in ("auto", "together"):
        (train, held_out), told = sides(choice)
        assert not train & held_out
        assert len(held_out) == 4
        assert "20 groups of near-duplicates (40 items) stay on one side" in told[0]
    (train, held_out), told = sides("ignore")
    assert train & held_out
    assert "near-duplicates" not in told[0]


@pytest.mark.parametrize(
    ("choice", "items", "expected"),
    [("auto", 20_000, True), ("auto", 20_001, False), ("together", 10**6, True),
     ("ignore", 10, False)],
)  # fmt: skip
def test_near_duplicates_of_many_items_are_found_only_when_asked(choice, items, expected):
    assert DataRecipe(train="scenes", near_duplicates=choice).keeps_together(items) is expected
