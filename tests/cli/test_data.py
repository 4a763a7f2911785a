"""`amodal data` as it is typed: exit codes, what is printed, and never a traceback."""

import json

import datasets
import pytest
from PIL import Image


@pytest.fixture
def amodal(tmp_path, monkeypatch, run_command):
    """Runs the command; returns exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return run_command


def test_made_scenes_are_inspected_and_packed(amodal, tmp_path):
    code, out, _ = amodal("data", "make", "scenes:seed=3", "world", "--size", "6")
    assert code == 0
    assert "6 scenes in world" in out
    assert len(list((tmp_path / "world" / "images").iterdir())) == 6
    code, out, _ = amodal("data", "inspect", "world")
    assert code == 0
    assert "text rows" in out
    code, out, _ = amodal("data", "pack", "world", "shards", "--records-per-shard", "4")
    assert code == 0
    assert "6 records (6 images, 30 captions) in 2 shards" in out
    code, out, _ = amodal("data", "inspect", "shards", "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["items"], found["broken"]) == (6, 0)
    assert found["rows"] == {"image": 6, "text": 30}


def test_what_a_source_leaves_out_is_printed_by_inspect_and_pack(amodal, tmp_path):
    for name in ("cat/0.png", ".Trash-1000/1.png"):
        (tmp_path / "pics" / name).parent.mkdir(parents=True)
        Image.new("RGB", (20, 16)).save(tmp_path / "pics" / name)
    (tmp_path / "pics" / "cat" / "0.ppm").touch()
    told = (
        "note: hidden folders that are not read: 1 (.Trash-1000)",
        "note: files that are not read: 1 (.ppm 1, such as cat/0.ppm)",
    )
    _, out, _ = amodal("data", "inspect", "pics")
    _, _, err = amodal("data", "pack", "pics", "shards")
    for line in told:
        assert line in out
        assert line in err


def test_broken_rows_are_listed_with_file_and_row(amodal, tmp_path):
    Image.new("RGB", (20, 16)).save(tmp_path / "[a].png")
    (tmp_path / "b.jpg").write_text("I am a text")
    rows = "[a].png,a dog\nb.jpg,a cat\ngone.png,a cow\n[a].png,\n"
    (tmp_path / "rows.csv").write_text("image,caption\n" + rows)
    code, out, _ = amodal("data", "inspect", "rows.csv")
    assert code == 0
    assert "rows.csv row 2: not a JPEG, PNG, WEBP, BMP, GIF, TIFF" in out
    assert "rows.csv row 3: no such image file: gone.png" in out
    assert "rows.csv row 4: the caption is empty" in out
    code, out, err = amodal("data", "pack", "rows.csv", "shards")
    assert code == 0
    assert "1 records" in out
    assert "skipped rows.csv row 2" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("inspect", "nothing"), "nothing: not a source"),
        (("inspect", "scenes:siz=3"), "did you mean 'size'"),
        (("inspect", "gone.csv"), "gone.csv: no such table"),
        (("inspect", "bad.csv"), "bad.csv: not utf-8 at byte 17 (line 2)"),
        (("make", "folder:path=x", "y"), "only `scenes` and `moving_scenes` can be made"),
        (("make", "scenes", "file/below", "--size", "2"), "file/below: cannot be written"),
        (("pack", "scenes:size=2", "file/below"), "file/below: cannot be written"),
        (("make", "scenes", "x", "--generalization", "odd"), "generalization"),
    ],
)
def test_work_that_fails_says_why_and_exits_with_1(amodal, tmp_path, words, message):
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "bad.csv").write_bytes(
        "image,caption\na,é\n".encode("latin-1").replace(b"a,", b"a,x")
    )
    code, _, err = amodal("data", *words)
    assert code == 1
    assert message in err


@pytest.mark.parametrize("words", [("inspect",), ("inspect", "scenes", "--limit", "0"), ("paint",)])
def test_wrong_usage_exits_with_2(amodal, words):
    assert amodal("data", *words)[0] == 2
