"""Every command and every Python block of docs/tutorials/ runs, in order, from an empty folder."""

import csv
import re
import shlex
import sys
from pathlib import Path

import own_data
import pytest

from amodal.cli import main as cli
from amodal.serving.served import open_served
from amodal.setup import defaults

TUTORIALS = Path(__file__).parents[1] / "docs" / "tutorials"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
TINY = ["--set", "train.epochs=1", "--set", "train.precision=fp32"]
TINY += ["--set", "data.holdout=0.6"]  # of 40 items: a match threshold needs 20
SMALL = {"train": TINY, "learning-curve": TINY}  # options that make a command quick


def steps(page):
    """(language, text) of each command and of each Python block."""
    for language, text in BLOCK.findall(page.read_text("utf-8")):
        if language == "sh":
            yield from (("sh", line) for line in text.splitlines() if not line.startswith("#"))
        elif language == "python":
            yield "python", text


def own_photos():
    own_data.captions_csv()
    rows = [(f"photos/{i}.jpg", own_data.CAPTIONS[i]) for i in range(20)]
    own_data.write_csv("held-out.csv", ("image", "caption"), rows)


def table():
    """A table of houses, one with a town that the first has not, and one without photos."""
    own_data.houses()
    with Path("houses.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    town, photo = header.index("town"), header.index("photo")
    price = header.index("price")
    new = [row[:price] for row in rows[:4]]
    new[0][town] = "Oslo"
    own_data.write_csv("new.csv", header[:price], new)
    without = [[*row[:photo], *row[photo + 1 :]] for row in (header[:price], *new)]
    own_data.write_csv("without-photos.csv", without[0], without[1:])


def photos_of_kinds():
    """Photos with captions and kinds, and a run."""
    names = own_data.images("photos")
    rows = [
        (f"photos/{name}", caption, own_data.THINGS[i % 4])
        for i, (name, caption) in enumerate(zip(names, own_data.CAPTIONS, strict=True))
    ]
    own_data.write_csv("photos.csv", ("image", "caption", "kind"), rows)
    run("init", "photos.csv", "--yes")
    run("train", "photos.yaml", *TINY)


PREPARED = {
    "own-photos-to-search": own_photos,
    "table-to-predictions": table,
    "small-data": own_data.metadata_csv,
    "low-recall": photos_of_kinds,
}
WRITTEN = {  # by the commands of the page
    "own-photos-to-search": ["runs/photos/report.html", "chosen.yaml"],
    "table-to-predictions": ["predictions.csv", "without-photos-predicted.csv"],
    "small-data": ["runs/photos-curve/learning_curve.json"],
    "low-recall": ["runs/photos-centred/metrics.json"],
}


def run(*words):
    """One `amodal` command, which must succeed."""
    before, sys.argv = sys.argv, ["amodal", *words]
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        sys.argv = before
    assert not ended.value.code, words


@pytest.mark.slow
@pytest.mark.parametrize("name", PREPARED)
def test_the_commands_of_the_tutorial_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(defaults, "PRETRAINED", own_data.SMALL)
    PREPARED[name]()
    for language, text in steps(TUTORIALS / f"{name}.md"):
        if language == "python":
            exec(compile(text, name, "exec"), {"__name__": "__main__"})
            continue
        first, *words = shlex.split(text, comments=True)
        assert first == "amodal", text
        if words[0] == "serve":  # a server does not end
            assert "search" in open_served(Path(words[1])).capabilities
        else:
            run(*words, *SMALL.get(words[0], []))
    assert all(Path(file).is_file() for file in WRITTEN[name])


def test_every_tutorial_is_run():
    assert {page.stem for page in TUTORIALS.glob("*.md")} == set(PREPARED)


def test_the_findings_of_the_tutorial_are_those_of_the_doctor():
    page = (TUTORIALS / "low-recall.md").read_text("utf-8")
    cells = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", page, re.MULTILINE)
    named = {name for cell in cells for name in re.findall(r"\w+", cell)}
    documented = (TUTORIALS.parent / "doctor.md").read_text("utf-8")
    assert len(named) > 15
    assert [name for name in named if f"`{name}`" not in documented] == []
