"""Fusions from the command line: train, evaluate, predict, and the tasks that do not fit."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

RECIPE = {
    "data": {"train": "train.csv", "validation": "test.csv"},
    "model": {
        "kind": "fusion",
        "encoders": {
            "columns": {"kind": "columns", "numerical": ["age"], "categorical": ["city"],
                        "width": 8, "heads": 2},
            "vector": {"kind": "vector", "column": "z", "width": 8},
        },
        "fusion": {"kind": "gated", "dim": 8},
        "target": {"column": "kind"},
    },
    "augment": {"modality_dropout": 0.3},
    "train": {"epochs": 12, "batch_size": 16, "learning_rate": 1e-2, "precision": "fp32"},
}  # fmt: skip
COLUMNS = {"image": None, "text": None, "id": "key"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set whose class is the sign of the first number of `z`."""
    place = tmp_path_factory.mktemp("fusion")
    rng = np.random.default_rng(0)
    for name, rows in (("train", 120), ("test", 40)):
        lines = []
        for i in range(rows):
            z = rng.normal(size=3)
            row = {"key": f"{name}{i}", "age": int(rng.integers(20, 60)), "city": "Bern",
                   "z": z.round(3).tolist(), "kind": "plus" if z[0] > 0 else "minus"}  # fmt: skip
            lines.append(json.dumps(row))
        (place / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    recipe = json.loads(json.dumps(RECIPE))
    for part in ("train", "validation"):
        path = str(place / recipe["data"][part].replace(".csv", ".jsonl"))
        recipe["data"][part] = {"kind": "table", "path": path, "columns": COLUMNS}
    (place / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return place


@pytest.fixture
def amodal(folder, monkeypatch, run_command):
    monkeypatch.chdir(folder)
    return run_command


def test_a_fusion_is_trained_evaluated_and_used(amodal):
    code, out, err = amodal("train", "recipe.yaml", "--out", "run")
    assert code == 0, err
    assert "accuracy" in out
    page = Path("run/report.html").read_text()
    assert "Predicts kind (one of 2 classes) from columns, vector" in page
    assert {p.name for p in Path("run/plots").glob("*.png")} >= {
        "score.png", "unimodal.png", "gates.png", "confusion.png", "loss.png",
    }  # fmt: skip

    code, out, _ = amodal("evaluate", "run", "--name", "held")
    assert code == 0
    held = json.loads(Path("run/evaluation/held.json").read_text())
    assert held["prediction/accuracy"] >= 0.8
    sentence = "better than always predicting the most frequent class"
    assert sentence in out
    assert sentence in page
    assert "columns alone, where an item has it" in page
    assert held["data/items"] == 40

    code, out, _ = amodal("evaluate", "run", "--task", "robustness")
    assert code == 0
    found = json.loads(Path("run/evaluation/robustness.json").read_text())
    assert found["robustness/only/vector"] > found["robustness/only/columns"]
    assert found["robustness/missing/columns/effective"] > 0.05
    assert found["robustness/missing/vector/100"] == found["robustness/only/columns"]
    assert found["gates/missing/vector/100"] == 0
    assert {p.name for p in Path("run/evaluation/robustness").iterdir()} == {
        "missing.png", "noise.png", "swap.png", "subsets.png",
    }  # fmt: skip

    code, out, _ = amodal("predict", "run", "recipe_source.yaml", "--out", "predicted.csv")
    assert code == 1  # no such source yet
    recipe = yaml.safe_load(Path("recipe.yaml").read_text())
    Path("recipe_source.yaml").write_text(yaml.safe_dump(recipe["data"]["validation"]))
    code, out, _ = amodal(
        "predict", "run", "recipe_source.yaml", "--out", "predicted.csv", "--explain"
    )
    assert code == 0
    with Path("predicted.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [f"test{i}" for i in range(40)]
    assert float(rows[0]["minus"]) + float(rows[0]["plus"]) == pytest.approx(1, abs=1e-3)
    assert float(rows[0]["gate vector"]) + float(rows[0]["gate columns"]) == pytest.approx(
        1, abs=1e-3
    )
    # What the vector alone decides changes without it, and hardly without the rest.
    moved = {
        m: sum(abs(float(row[f"without {m}"]) - float(row[row["kind"]])) for row in rows) / 40
        for m in ("vector", "columns")
    }
    assert moved["vector"] > 2 * moved["columns"]
    correct = sum(row["kind"] == json.loads(line)["kind"] for row, line in zip(
        rows, Path("test.jsonl").read_text().splitlines(), strict=True))  # fmt: skip
    assert correct / 40 == pytest.approx(held["prediction/accuracy"])

    for words in (
        ("evaluate", "run", "--task", "retrieval"),
        ("evaluate", "run", "--task", "geometry"),
    ):
        code, _, err = amodal(*words)
        assert code == 2
        assert "prediction" in err
    code, _, err = amodal("index", "run", "scenes:size=4", "--out", "index")
    assert code == 1
    assert "needs a joint embedding" in err
