"""Recipes: what is accepted, and what the error says about what is not."""

from pathlib import Path

import pytest
import yaml

from amodal.training.recipe import load_recipe
from amodal.training.recipes.error import RecipeError

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


def test_text_that_is_not_yaml_is_refused(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("data: [1,")
    with pytest.raises(RecipeError, match="not valid YAML"):
        load_recipe(path)
