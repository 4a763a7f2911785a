"""Findings as options of the command line and as YAML, and the counts behind them."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml

from amodal.data.record import DataError
from amodal.doctor import Finding, open_subject
from amodal.doctor.data_checks import _share_with_partner
from amodal.doctor.source_facts import plain
from amodal.training.recipe import load_recipe

ENCODERS = {"image": "small_cnn", "text": "small_transformer"}
SETTINGS = {
    "train.learning_rate": 3e-5,
    "objectives.0.label_smoothing": 0.05,
    "model.encoders.text.tokenizer": {"kind": "trained", "model": "bpe", "vocab_size": 800},
    "data.validation": None,
}


def finding(settings):
    return Finding("small_batch", "warning", "train.batch_size", "4 of 300", "raise it", settings)


def test_options_change_a_recipe_as_they_are_pasted():
    words = shlex.split(finding(SETTINGS).options())
    assert words[::2] == ["--set"] * 4
    recipe = load_recipe("quickstart", words[1::2])
    assert recipe.train.learning_rate == 3e-5
    assert recipe.objectives[0].label_smoothing == 0.05
    assert recipe.model.encoders["text"].tokenizer.vocab_size == 800
    assert recipe.data.validation is None


def test_recipe_lines_are_yaml_with_whole_list_entries():
    shown = yaml.safe_load(finding(SETTINGS).recipe_lines(load_recipe("quickstart")))
    assert shown["train"] == {"learning_rate": 3e-5}
    (objective,) = shown["objectives"]
    assert objective == {"kind": "info_nce", "temperature": 0.07, "label_smoothing": 0.05}
    assert shown["model"]["encoders"] == {"text": {"tokenizer": SETTINGS[list(SETTINGS)[2]]}}
    assert shown["data"] == {"validation": None}


def test_without_settings_there_is_nothing_to_paste():
    assert finding({}).options() == ""
    assert finding({}).to_dict()["recipe"] == ""


@pytest.mark.parametrize("batch", [2, 7, 20])
def test_the_share_of_items_with_a_partner_is_that_of_random_batches(batch):
    rng = np.random.default_rng(0)
    item = np.repeat(np.arange(40), rng.integers(1, 4, 40))
    key = rng.integers(0, 25, len(item))
    counted = []
    for _ in range(4000):
        drawn = rng.choice(40, batch, replace=False)
        keys = [rng.choice(key[item == one]) for one in drawn]
        counted.append(np.mean([keys.count(one) > 1 for one in keys]))
    assert _share_with_partner(item, key, batch) == pytest.approx(np.mean(counted), abs=0.03)


@pytest.mark.parametrize(
    ("objectives", "settings"),
    [
        (None, {"objectives": [{"kind": "info_nce", "label_smoothing": 0.1}]}),
        ([{"kind": "cmd"}, {"kind": "info_nce"}], {"objectives.1.label_smoothing": 0.1}),
    ],
    ids=["default", "named"],
)
def test_an_objective_is_changed_where_the_recipe_names_it(objectives, settings, tmp_path):
    values = {
        "data": {"train": "scenes:size=40"},
        "model": {"encoders": {n: {"kind": k} for n, k in ENCODERS.items()}},
        **({"objectives": objectives} if objectives else {}),
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(values))
    subject = open_subject(str(file))
    (place,) = [p for p, o in subject.objectives.items() if o.kind == "info_nce"]
    found = finding(subject.smoothed(place))
    assert found.settings == settings
    changed = load_recipe(file, shlex.split(found.options())[1::2])
    assert changed.objectives[place].label_smoothing == 0.1


def test_captions_are_compared_without_case_and_punctuation():
    assert plain(" A dog,  on the Beach!") == plain("a dog on the beach")
    assert plain("a dog") != plain("a dogs")
    assert plain("犬。") == plain("犬")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("no-such-thing", "neither a run folder nor a recipe, and no-such-thing: not a source"),
        ("quickstrat", "did you mean quickstart"),
        ("nowhere/mine.yaml", "no such file"),
    ],
)
def test_what_is_no_subject_is_refused(text, hint):
    with pytest.raises(DataError, match=hint):
        open_subject(text)


def test_a_source_takes_no_settings():
    with pytest.raises(DataError, match="--set changes a recipe"):
        open_subject("scenes:size=8", overrides=["train.epochs=2"])


def test_every_finding_is_documented_and_every_documented_one_exists():
    root = Path(__file__).parents[2]
    code = "".join(file.read_text() for file in (root / "src/amodal/doctor").glob("*.py"))
    names = set(re.findall(r'Finding\(\s*"(\w+)"', code))
    page = (root / "docs" / "doctor.md").read_text()
    tables = "".join(line.split("|")[2] for line in page.splitlines() if line.startswith("|"))
    documented = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", tables)) | {"overfitting"}
    assert len(names) > 25
    assert names - {"learning_rate_sweep"} == documented & names
    assert documented <= names
    assert "learning_rate_sweep" in page
