"""Keys and values of recipes of before: refused, with the present name in the message."""

import copy

import pytest

from amodal.training.recipe import parse_recipe
from amodal.training.recipes.error import RecipeError
from amodal.training.recipes.renamed import RENAMED_KEYS, RENAMED_VALUES

IMAGE, TEXT = (
    {"kind": "small_cnn", "size": 32},
    {"kind": "small_transformer", "width": 16, "heads": 2},
)
AUDIO = {"kind": "small_audio_cnn"}
TABLE = {"kind": "columns", "numerical": ["age"]}
SCENES = {"kind": "scenes", "size": 8}


def joint(**parts):
    return {
        "data": {"train": SCENES},
        "model": {"encoders": {"image": IMAGE, "text": TEXT}},
    } | parts


def fusion(**model):
    encoders = {"image": IMAGE, "columns": TABLE}
    return {"data": {"train": "a.csv"}, "model": {"kind": "fusion", "encoders": encoders} | model}


def with_source(**source):
    return joint(data={"train": source})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            joint(data={"train": SCENES, "captions": 2}),
            "`data.captions`; it is now called `captions_per_item`",
        ),
        (joint(data={"train": SCENES, "validation_items": 2}), "called `max_validation_items`"),
        (joint(train={"keep": "last"}), "`train.keep`; it is now called `checkpoint`"),
        (joint(train={"progressive_size": {"start": 16}}), "called `progressive_resizing`"),
        (joint(train={"progressive_resizing": {"start": 16}}), "called `initial_size`"),
        (joint(objectives=[{"kind": "info_nce", "smoothing": 0.1}]), "called `label_smoothing`"),
        (joint(objectives=[{"kind": "cycle", "seeds": 3}]), "called `known_pairs`"),
        (joint(objectives=[{"kind": "nt_xent", "mode": "in_modality"}]), "now called intra_modal"),
        (
            joint(augment={"image": ["horizontal_flip"], "audio": ["speed_change"]}),
            "now called speed_perturbation",
        ),
        (
            joint(model={"encoders": {"image": IMAGE, "text": TEXT | {"word_vectors": "random"}}}),
            "called `embedding_init`",
        ),
        (
            joint(model={"encoders": {"image": IMAGE, "audio": AUDIO | {"mels": 8}}}),
            "called `n_mels`",
        ),
        (
            joint(
                model={"encoders": {"image": IMAGE, "audio": AUDIO | {"normalize": "utterance"}}}
            ),
            "now called clip",
        ),
        (
            joint(model={"encoders": {"image": IMAGE | {"grid": 4}, "text": TEXT}}),
            "called `min_grid_size`",
        ),
        (fusion(fusion={"kind": "gated", "gate": "own"}), "now called precision"),
        (fusion(fusion={"kind": "cross_attention", "style": "directional"}), "called `attention`"),
        (fusion(fusion={"kind": "gated"}, head={"unimodal": False}), "called `unimodal_heads`"),
        (
            fusion(fusion={"kind": "gated"})
            | {"objectives": [{"kind": "prediction", "unimodal": 1}]},
            "called `unimodal_weight`",
        ),
        (with_source(kind="scenes", part="test"), "`data.train.part`; it is now called `split`"),
        (with_source(kind="scenes", split="iid"), "iid is now written `generalization: iid`"),
        (with_source(kind="vqa", questions="a.json", per="image"), "called `group_by`"),
        (with_source(kind="folder", path="a", text="a {label}"), "called `caption_template`"),
        (
            with_source(kind="visdial", dialogs="a.json", dense="b.json"),
            "called `dense_annotations`",
        ),
        (
            with_source(kind="table", path="a.csv", columns={"empty": "broken"}),
            "written `empty_cells: error`",
        ),
    ],
)
def test_a_renamed_key_is_refused_with_its_new_name(values, message):
    with pytest.raises(RecipeError) as refused:
        parse_recipe(copy.deepcopy(values), "recipe.yaml")
    assert message in str(refused.value)


def test_no_key_or_value_is_renamed_to_itself():
    for table in (RENAMED_KEYS, RENAMED_VALUES):
        assert all(old not in new for old, new in table.items())
