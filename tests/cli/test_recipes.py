"""`amodal recipes`, and recipes by name."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from amodal.cli.commands import app
from amodal.training.recipe import load_recipe
from amodal.training.recipes.error import RecipeError
from amodal.training.recipes.packaged import find_recipe, packaged_recipes, read_header


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def amodal(*words):
    return CliRunner().invoke(app, ["recipes", *words])


def test_every_recipe_of_the_repository_is_listed_with_its_hardware():
    files = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
    assert [path.stem for path in files] == list(packaged_recipes())
    printed = amodal("list")
    assert printed.exit_code == 0
    assert all(path.stem in printed.output for path in files)
    assert all(read_header(path).summary and read_header(path).hardware for path in files)
    assert amodal().output == printed.output


def test_a_header_has_a_summary_and_hardware_over_several_lines(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text(
        "# What it is for.\n#   command    amodal train a\n#              again\n"
        "#   hardware   a GPU,\n#              or two\n#   result     good\n"
        "data: {}\n# hardware none\n"
    )
    header = read_header(file)
    assert (header.summary, header.hardware) == ("What it is for.", "a GPU, or two")
    file.write_text("data: {}\n")
    assert (read_header(file).summary, read_header(file).hardware) == ("", "")


def test_a_recipe_is_shown_as_it_is_and_copied():
    text = packaged_recipes()["quickstart"].read_text()
    assert amodal("show", "quickstart").stdout == text
    assert amodal("copy", "quickstart").exit_code == 0
    assert Path("quickstart.yaml").read_text() == text
    assert "already exists" in str(amodal("copy", "quickstart").exception)
    assert amodal("copy", "quickstart", "--overwrite").exit_code == 0
    assert amodal("copy", "quickstart.yaml", "--out", "mine/first.yaml").exit_code == 0
    assert Path("mine/first.yaml").read_text() == text


@pytest.mark.parametrize("name", ["quickstart", "quickstart.yaml", "recipes/quickstart.yaml"])
def test_a_recipe_is_loaded_by_name(name):
    assert load_recipe(name) == load_recipe(packaged_recipes()["quickstart"])


def test_an_existing_file_wins():
    Path("quickstart.yaml").write_text("mine")
    assert find_recipe("quickstart.yaml") == Path("quickstart.yaml")
    Path("quickstart").mkdir()  # such as a run folder of that name
    assert find_recipe("quickstart") == packaged_recipes()["quickstart"]


def test_an_unknown_name_lists_the_nearest_and_all():
    with pytest.raises(RecipeError, match=r"did you mean quickstart\?.*scenes-vqa"):
        find_recipe("quikstart")
    Path("own.yaml").write_text("data: {}")
    with pytest.raises(RecipeError, match=r"did you mean own\.yaml\?"):
        find_recipe("owm.yaml")
    with pytest.raises(RecipeError, match="no such recipe"):
        find_recipe("elsewhere/quickstart.yaml")
