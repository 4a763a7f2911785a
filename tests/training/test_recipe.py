"""Recipes: what is accepted, and what the error says about what is not."""

from pathlib import Path

import pytest
import yaml

from amodal.training.recipe import load_recipe
from amodal.training.recipes.error import RecipeError
from amodal.training.recipes.packaged import RENAMED_RECIPES

RECIPES = Path(__file__).parents[2] / "recipes"
MINIMAL = {
    "data": {"train": {"kind": "scenes", "split": "train", "size": 64}},
    "model": {"encoders": {"image": {"kind": "small_cnn"}, "text": {"kind": "small_transformer"}}},
}


def write(tmp_path, values):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_recipe_is_valid_and_says_how_to_run_it(path):
    load_recipe(path)
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for word in ("command", "hardware", "result"):
        assert any(word in line for line in header), f"{path}: header lacks {word}"


def test_a_resolved_recipe_reads_back_the_same(tmp_path):
    recipe = load_recipe(write(tmp_path, MINIMAL))
    path = tmp_path / "again.yaml"
    path.write_text(recipe.to_yaml())
    assert load_recipe(path) == recipe


def test_set_changes_one_value_and_keeps_its_type(tmp_path):
    values = MINIMAL | {"objectives": [{"kind": "info_nce"}]}
    recipe = load_recipe(
        write(tmp_path, values), ["train.learning_rate=5e-4", "objectives.0.temperature=0.1"]
    )
    assert recipe.train.learning_rate == 5e-4
    assert recipe.objectives[0].temperature == 0.1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.leaning_rate=1", "did you mean `learning_rate`"),
        ("trian.seed=1", "did you mean `train`"),
        ("model.encoders.image.kind=small_cn", "did you mean `small_cnn`"),
        ("model.encoders.image.frieze=all", "did you mean `freeze`"),
        ("train.batch_size=1", "greater than or equal to 2"),
        ("train.batch_size=many", "got 'many'"),
        ("train.seed", "expected a.b=value"),
        ("objectives=[{kind: info_nce, temprature: 0.1}]", "did you mean `temperature`"),
        ("objectives=[{kind: info_nce", "`objectives`"),
        ("train={seed: 1, seed: 2}", "the key `seed` is on line 1 already"),
        ("train.seed=" + "9" * 4500, "4,500 characters"),
        ("train.epochs=1" + "0" * 400, "`train.epochs`"),
        ("data.captions_per_item=-1", "greater than or equal to 1"),
        ("data.max_validation_items=-5", "greater than or equal to 2"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_the_nearest_right_one(tmp_path, override, message):
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, MINIMAL), [override])
    assert message in str(caught.value)


def test_a_recipe_without_a_model_says_what_is_missing(tmp_path):
    with pytest.raises(RecipeError, match="`model`"):
        load_recipe(write(tmp_path, {"data": MINIMAL["data"]}))


def test_encoders_and_dual_encoder_exclude_each_other(tmp_path):
    values = {
        **MINIMAL,
        "model": {**MINIMAL["model"], "dual_encoder": {"kind": "transformers", "name": "x"}},
    }
    with pytest.raises(RecipeError, match="not both"):
        load_recipe(write(tmp_path, values))


def test_a_missing_recipe_names_those_that_are_there(tmp_path):
    write(tmp_path, MINIMAL)
    with pytest.raises(RecipeError, match=r"no such recipe.*recipe\.yaml"):
        load_recipe(tmp_path / "recip.yaml")


def test_a_renamed_recipe_names_the_new_one():
    for old, new in RENAMED_RECIPES.items():
        with pytest.raises(RecipeError, match=f"it is now called {new}"):
            load_recipe(old)
        load_recipe(new)


def test_text_that_is_not_yaml_is_refused(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("data: [1,")
    with pytest.raises(RecipeError, match="not YAML"):
        load_recipe(path)


@pytest.mark.parametrize("path", ["*.csv", "@x.csv", "%x.csv", "&x.csv", "[1] x.csv", "a #b.csv"])
def test_set_takes_a_value_that_is_not_yaml_as_text(tmp_path, path):
    values = MINIMAL | {"data": {"train": {"kind": "table", "path": "train.csv"}}}
    recipe = load_recipe(write(tmp_path, values), [f"data.train.path={path}"])
    assert str(recipe.data.train.path) == path


@pytest.mark.parametrize("place", ["²", "٣", "-1", "1", "9" * 5000, "1_0", ""])
def test_set_at_a_place_that_a_list_does_not_have_is_refused(tmp_path, place):
    values = MINIMAL | {"objectives": [{"kind": "info_nce"}]}
    for key in (f"objectives.{place}", f"objectives.{place}.weight"):
        with pytest.raises(RecipeError, match=r"not one of the places 0…0"):
            load_recipe(write(tmp_path, values), [f"{key}=1"])


def test_set_in_an_empty_list_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="the list is empty"):
        load_recipe(write(tmp_path, MINIMAL | {"objectives": []}), ["objectives.0.weight=1"])


def test_set_below_a_text_in_a_list_is_refused(tmp_path):
    values = MINIMAL | {"objectives": ["info_nce"]}
    with pytest.raises(RecipeError, match="has no keys"):
        load_recipe(write(tmp_path, values), ["objectives.0.weight=1"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 5000, "line 1: nested deeper than 64"),
        ("data: {train: scenes}\nmodel: {}\ndata: {train: scenes}\n", "line 3: the key `data` is"),
        ("train: {seed: " + "9" * 4500 + "}", "line 1: 99999"),
        ("1: 2\n", "`1`: Keys should be strings"),
    ],
    ids=["deep", "twice", "digits", "number as key"],
)
def test_yaml_that_nobody_meant_is_one_line(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message) as refusal:
        load_recipe(path)
    assert len(str(refusal.value).splitlines()) == 1
    assert "recipe.yaml" in str(refusal.value)


@pytest.mark.parametrize("objective", ["info_nce", "mmd", "deep_cca", "cycle", "matryoshka"])
def test_one_encoder_with_an_objective_of_two_inputs_is_refused(tmp_path, objective):
    given = {"kind": objective, **({"dims": [8]} if objective == "matryoshka" else {})}
    values = MINIMAL | {"objectives": [given]}
    with pytest.raises(RecipeError, match=f"{objective} compares two inputs .* text alone"):
        load_recipe(write(tmp_path, values), ["model.encoders.image=null"])


def test_views_of_one_input_can_be_trained_without_validation(tmp_path):
    values = MINIMAL | {"objectives": [{"kind": "nt_xent", "mode": "intra_modal"}]}
    one = ["model.encoders.text=null", "data.views_per_item=2"]
    with pytest.raises(RecipeError, match=r"data\.holdout: 0"):
        load_recipe(write(tmp_path, values), one)
    recipe = load_recipe(write(tmp_path, values), [*one, "data.holdout=0"])
    assert list(recipe.model.types) == ["image"]
    crossed = [*one, "data.holdout=0", "objectives.0.mode=cross_modal"]
    with pytest.raises(RecipeError, match="nt_xent compares two inputs"):
        load_recipe(write(tmp_path, values), crossed)
