"""Mistyped folders: the nearest ones that hold what was looked for."""

from pathlib import Path

import pytest

from amodal.data.near_folders import did_you_mean, near_folders


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for run in ("quickstart", "scenes-vqa", "other"):
        (tmp_path / "runs" / run / "index").mkdir(parents=True)
        (tmp_path / "runs" / run / "config.json").write_text("{}")
        (tmp_path / "runs" / run / "index" / "index.json").write_text("{}")
    (tmp_path / "runs" / "quickstar").mkdir()  # close, but no run


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("runs/quikstart", ["runs/quickstart"]),
        ("quickstart", ["runs/quickstart"]),
        ("runz/quickstart", ["runs/quickstart"]),
        ("quickstart/run/deep", []),
        ("runs/zzz", []),
        ("runs/other/index", ["runs/other"]),
    ],
)
def test_runs_near_a_path(place, typed, meant):
    assert near_folders(Path(typed), "config.json") == [Path(path) for path in meant]


def test_an_index_near_a_path(place):
    assert near_folders(Path("runs/other"), "index.json") == [Path("runs/other/index")]
    assert near_folders(Path("runs/other/indx"), "index.json") == [Path("runs/other/index")]


def test_the_hint(place):
    assert did_you_mean(Path("runs/othr"), "config.json") == "; did you mean runs/other?"
    assert did_you_mean(Path("runs/zzz"), "config.json") == ""
