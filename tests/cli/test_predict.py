"""`amodal predict` of the README on tables that differ from the training table."""

import csv
from pathlib import Path

import own_data
import pytest

from amodal.setup import defaults

TINY = ("--set", "train.epochs=2", "--set", "train.precision=fp32")
HEADER = ("flat", "picture", "advert", "beds", "square_metres", "suburb", "rent")


@pytest.fixture
def amodal(tmp_path, monkeypatch, run_command):
    """Runs the command in a folder with a trained run, `runs/flats`, of a table of own columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(defaults, "PRETRAINED", own_data.SMALL)
    names = own_data.images("pictures")
    rows = [
        (f"flat {i}", f"pictures/{name}", f"a flat with {i} windows and a view", i % 5 + 1,
         30 + 2 * i, ("Nord", "Süd", "West")[i % 3], 500 + 20 * i)
        for i, name in enumerate(names)
    ]  # fmt: skip
    own_data.write_csv("flats.csv", HEADER, rows)
    assert run_command("init", "flats.csv", "--target", "rent", "--yes")[0] == 0
    code, _, err = run_command("train", "flats.yaml", *TINY)
    assert code == 0, err
    return run_command


def predictions(amodal, header, rows, *options):
    """Rent of each row of a new table."""
    own_data.write_csv("new.csv", header, rows)
    code, _, err = amodal("predict", "runs/flats", "new.csv", "--out", "predicted.csv", *options)
    assert code == 0, err
    with Path("predicted.csv").open(newline="", encoding="utf-8") as file:
        return [float(row["rent"]) for row in csv.DictReader(file)]


def new_rows(suburbs, *, without=()):
    """Header and rows of flats that differ in their suburb, less some columns."""
    kept = [i for i, name in enumerate(HEADER[:-1]) if name not in without]
    rows = [
        (f"new {i}", "pictures/3.jpg", "a flat with 3 windows and a view", 2, 50, suburb)
        for i, suburb in enumerate(suburbs)
    ]
    return [HEADER[i] for i in kept], [[row[i] for i in kept] for row in rows]


@pytest.mark.slow
def test_unseen_categories_and_missing_columns_are_predicted_or_refused(amodal):
    known, one, another, empty = predictions(amodal, *new_rows(["Nord", "Ost", "Mitte", ""]))
    assert one == another  # every unseen category is the same one
    assert len({known, one, empty}) == 3

    own_data.write_csv("new.csv", *new_rows(["Nord"], without=["suburb"]))
    code, _, err = amodal("predict", "runs/flats", "new.csv", "--out", "refused.csv")
    assert code == 1
    assert "'suburb'" in err
    assert "--allow-missing" in err
    assert not Path("refused.csv").exists()
    (missing,) = predictions(amodal, *new_rows(["Nord"], without=["suburb"]), "--allow-missing")
    assert missing == pytest.approx(empty, rel=1e-5)

    own_data.write_csv("new.csv", *new_rows(["Nord"], without=["picture"]))
    code, _, err = amodal("predict", "runs/flats", "new.csv", "--out", "refused.csv")
    assert code == 1
    assert "no column 'picture'" in err
    assert "--allow-missing" in err
    (blind,) = predictions(amodal, *new_rows(["Nord"], without=["picture"]), "--allow-missing")
    header, rows = new_rows(["Nord"])
    rows[0][header.index("picture")] = ""
    assert predictions(amodal, header, rows) == [pytest.approx(blind, rel=1e-5)]
    assert blind != pytest.approx(known, rel=1e-5)

    header[header.index("square_metres")] = "square_meters"
    own_data.write_csv("new.csv", header, rows)
    code, _, err = amodal("predict", "runs/flats", "new.csv", "--out", "refused.csv")
    assert code == 1
    assert "the nearest is 'square_meters'" in err
