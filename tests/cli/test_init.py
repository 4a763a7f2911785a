"""`amodal init` and `amodal train` of data as they are typed, up to the printed commands."""

import json
import re
import shlex
from pathlib import Path

import own_data
import pytest

from amodal.cli.init import is_data, recipe_file
from amodal.setup import defaults
from amodal.training.recipe import load_recipe

TINY = ("--set", "train.epochs=1", "--set", "train.precision=fp32")


@pytest.fixture
def amodal(tmp_path, monkeypatch, run_command):
    """Runs the command in an empty folder with small encoders."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(defaults, "PRETRAINED", own_data.SMALL)
    return run_command


def printed_commands(out):
    return [shlex.split(line)[1:] for line in out.splitlines() if line.startswith("  amodal ")]


def test_the_printed_commands_work_when_pasted(amodal):
    code, out, _ = amodal("init", own_data.metadata_csv(), "--yes")
    assert code == 0
    assert "captions per item: 2 in 40 items" in out
    train, index, serve = printed_commands(out)
    assert train == ["train", "photos.yaml"]
    code, out, err = amodal(*train, *TINY)
    assert code == 0
    assert "text_to_image/recall@1" in out
    assert "4 of 40 items are held out" in err
    code, out, _ = amodal(*index)
    assert code == 0
    assert "40 items: 40 image, 80 text rows" in out
    assert serve == ["serve", "runs/photos/index"]
    code, out, _ = amodal("search", "runs/photos/index", "a dog on the beach", "--json")
    assert code == 0
    assert len(json.loads(out)) > 0


def test_the_commands_of_a_prediction_work_when_pasted(amodal):
    code, out, _ = amodal("init", own_data.houses(), "--target", "price", "--yes")
    assert code == 0
    train, predict, robustness = printed_commands(out)
    assert amodal(*train, *TINY)[0] == 0
    assert amodal(*predict)[0] == 0
    assert len(Path("runs/houses/predictions.csv").read_text().splitlines()) == 41
    assert amodal(*robustness)[0] == 0


def test_data_are_trained_without_a_recipe_and_again_with_the_one_that_was_made(amodal):
    path = own_data.excel()
    code, out, err = amodal("train", path, *TINY)
    assert code == 0
    assert "list.xlsx is no recipe: one is made as with `amodal init list.xlsx --yes`" in err
    assert "task: search" in out
    made = Path("list.yaml").read_text()
    code, _, err = amodal("train", path, *TINY, "--out", "again")
    assert code == 0
    assert "list.yaml is used" in err
    assert Path("list.yaml").read_text() == made


def test_a_long_name_with_spaces_and_a_slash_is_known_again(amodal):
    folder = f"my holiday photos {'of-a-long summer ' * 6}end"
    Path(own_data.captions_csv()).rename(folder)
    assert amodal("init", folder, "--yes")[0] == 0
    code, _, err = amodal("train", f"{folder}/", *TINY)
    assert code == 0
    assert "is used, which" in err


def test_a_recipe_of_other_data_is_not_used(amodal):
    Path("list.yaml").write_text("data: {}\n")
    code, _, err = amodal("train", own_data.excel())
    assert code == 1
    assert "list.yaml: already exists, and `amodal init list.xlsx` has not made it" in err


def test_several_processes_make_no_recipe(amodal, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = amodal("train", own_data.captions_csv())
    assert code == 1
    assert "run `amodal init photos` first" in err
    assert not Path("photos.yaml").exists()


def test_a_file_is_replaced_only_when_asked(amodal):
    path = own_data.captions_csv()
    assert amodal("init", path, "--yes", "--out", "a/mine.yaml")[0] == 0
    code, _, err = amodal("init", path, "--out", "a/mine.yaml")
    assert code == 1
    assert "already exists; choose another --out, or add --overwrite" in err
    assert amodal("init", path, "--task", "captions", "--out", "a/mine.yaml", "--overwrite")[0] == 0
    assert load_recipe("a/mine.yaml").model.tasks == ("caption",)


def test_without_a_terminal_the_guess_is_taken_and_said(amodal):
    names = own_data.images("photos")
    rows = [(f"photos/{n}", c, f"{c} again") for n, c in zip(names, own_data.CAPTIONS, strict=True)]
    own_data.write_csv("photos.csv", ("image", "title", "notes"), rows)
    code, _, err = amodal("init", "photos.csv")
    assert code == 0
    assert "Which column holds the captions? Taken: title, of title, notes" in err


def test_a_choice_without_a_guess_names_the_option(amodal):
    rows = [(i, i % 7, 3 * i % 11) for i in range(60)]
    own_data.write_csv("numbers.csv", ("a", "b", "c"), rows)
    code, _, err = amodal("init", "numbers.csv", "--yes")
    assert code == 1
    assert "Which column is to be predicted? Say it with --target; possible are: a, b, c" in err


def test_a_person_is_asked_by_name_or_number(amodal, monkeypatch):
    from amodal.cli import init

    answers = iter(["nothing", "9", "2"])
    monkeypatch.setattr(init.typer, "prompt", lambda question, default: next(answers))
    assert init._ask("Which?", ["a", "b"], "a", "--target") == "b"


def test_data_that_cannot_be_used_are_one_line(amodal):
    own_data.images("bare")
    code, _, err = amodal("init", "bare", "--yes")
    assert code == 1
    assert re.search(r"error: .*image files without captions", err)
    assert not Path("bare.yaml").exists()


def test_wrong_usage_has_exit_code_two(amodal):
    assert amodal("init")[0] == 2
    assert amodal("init", "photos", "--task", "smell")[0] == 2


def test_what_is_data_and_what_is_a_recipe(amodal):
    for folder in ("photos", "quickstart"):
        Path(folder).mkdir()
    for file in ("photos.csv", "recipe.yaml"):
        Path(file).touch()
    names = ("photos", "photos.csv", "recipe.yaml", "quickstart", "nothing.csv")
    assert [is_data(name) for name in names] == [True, True, False, False, False]
    written = {
        "photos/": "photos",
        "a/My photos.csv": "My-photos",
        "scenes:size=4": "scenes-size-4",
    }
    assert {path: recipe_file(path).stem for path in written} == written
    Path("linked").symlink_to("photos")
    assert recipe_file("linked") == Path("linked.yaml")
    assert recipe_file(".").stem == Path.cwd().name
