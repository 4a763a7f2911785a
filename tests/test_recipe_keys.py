"""The page of recipe keys is that of the code, and says of every key what it is."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))

import recipe_keys

from amodal.training.kinds import MODEL_KINDS
from amodal.training.recipes.train import TrainRecipe


def test_the_page_is_up_to_date():
    page = recipe_keys.PAGE.read_text(encoding="utf-8")
    assert page == recipe_keys.page(), "run python docs/recipe_keys.py"


def test_every_key_is_described():
    assert recipe_keys.undescribed() == [], "write a comment beside the key, or Args"


@pytest.mark.parametrize(
    "row",
    [
        "| `learning_rate` | float (> 0) | `0.0005` | highest one, after the warmup |",
        "| `NAME` | list of [mapping](#augmentnamen) | `{}` |",
        "| `tokenizer` | [mapping](#modeltokenizer) | `{kind: trained}` | of the text |",
        "| `betas` | 2 of float | `[0.9, 0.98]` |",
        "| `teacher` | str | required |",
    ],
)
def test_rows_have_type_default_and_description(row):
    assert row in recipe_keys.page()


def test_every_kind_of_model_and_of_encoder_has_a_table():
    page = recipe_keys.page()
    for kind in (*MODEL_KINDS, "table", "info_nce", "matryoshka", "cross_attention", "rotate"):
        assert f"### kind: {kind}\n" in page
    assert "### type: image, kind: packaged\n" in page


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (Literal["a", "b"] | None, "`a`, `b` or `null`"),
        (Annotated[int, Field(ge=1)] | None, "int (≥ 1) or `null`"),
        (tuple[str, ...], "list of str"),
        (dict[str, TrainRecipe], "mapping of names to mapping"),
    ],
)
def test_types_are_those_of_yaml(annotation, text):
    assert recipe_keys.type_text(annotation) == text
