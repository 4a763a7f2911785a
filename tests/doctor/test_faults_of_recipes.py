"""Faults seeded into data and recipes of real photos: each is named, and its fix removes it."""

import io
from pathlib import Path

import pytest
from photo_tables import TRAIN, VALIDATION
from PIL import Image, ImageEnhance

from amodal.doctor import Subject, diagnose
from amodal.encoders.packaged import PackagedImageConfig
from amodal.training.recipe import parse_recipe, set_value

PACKAGED = {"kind": "packaged", "name": "efficientnet-lite0"}
pytestmark = pytest.mark.slow


def findings(values):
    """Name -> finding about a recipe."""
    found = diagnose(Subject("test", recipe=parse_recipe(values, "test")))
    assert not found.skipped
    return {finding.name: finding for finding in found.findings}


def fixed(values, finding):
    """The values with the settings of a finding."""
    for key, value in finding.settings.items():
        set_value(values, key, value)
    return values


def class_captions(photos, make):
    rows = [
        {**row, "caption": f"a photo of a {kind}"}
        for row, kind in zip(photos.rows, photos.about_dogs(), strict=True)
    ]
    return make(
        data__train=photos.table("faulty", rows[TRAIN]),
        data__validation=photos.table("held out", rows[VALIDATION]),
    )


def rows_for_captions(photos, make):
    rows = [
        {**row, "id": f"{row['id']} {number}", "caption": caption}
        for row in photos.rows[:64]
        for number, caption in enumerate(row["caption"][:4])
    ]
    return make(data__train=photos.table("faulty", rows))


def captions_written_differently(photos, make):
    kinds = photos.about_dogs()
    writings = ("a photo of a {}", "A photo of a {}.", "a Photo, of a {}", "A PHOTO OF A {}!")
    rows = [
        {**row, "caption": [writings[place % 4].format(kinds[place]), *row["caption"]]}
        for place, row in enumerate(photos.rows[TRAIN])
    ]
    return make(data__train=photos.table("faulty", rows))


def images_on_both_sides(photos, make):
    rows = [{**row, "id": f"again {row['id']}"} for row in photos.rows[:5]]
    return make(data__validation=photos.table("v", photos.rows[VALIDATION] + rows))


def images_saved_again(photos, make):
    rows = []
    for row in photos.rows[:8]:
        image = ImageEnhance.Brightness(Image.open(row["image"]).convert("RGB")).enhance(0.9)
        file = photos.folder / row["id"]
        image.resize((120, 120)).save(file, quality=50)
        rows.append({**row, "id": f"again {row['id']}", "image": str(file)})
    return make(data__validation=photos.table("v", photos.rows[VALIDATION] + rows))


def placeholder(photos, make):
    rows = [
        {**row, "image": photos.rows[0]["image"]} if place % 5 == 0 else row
        for place, row in enumerate(photos.rows[TRAIN])
    ]
    return make(data__train=photos.table("faulty", rows))


def blank(photos, make):
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "white").save(file, "PNG")
    path = photos.folder / "white.png"
    path.write_bytes(file.getvalue())
    rows = [
        {**row, "image": str(path)} if place % 9 == 0 else row
        for place, row in enumerate(photos.rows[TRAIN])
    ]
    return make(data__train=photos.table("faulty", rows))


def files_that_are_gone(photos, make):
    rows = [
        {**row, "image": row["image"] + ".old"} if place % 4 == 0 else row
        for place, row in enumerate(photos.rows[TRAIN])
    ]
    return make(data__train=photos.table("faulty", rows))


def leak(photos, make):
    kinds = photos.about_dogs()
    rows = [
        {**row, "label": kind, "keeper": f"K{int(kind == 'dog')}", "width": 100 + place % 7}
        for place, (row, kind) in enumerate(zip(photos.rows, kinds, strict=True))
    ]
    columns = {"kind": "columns", "numerical": ["width"], "categorical": ["keeper"], "heads": 2}
    return make(
        data__train=photos.table("faulty", rows[TRAIN], label="label"),
        data__validation=photos.table("held out", rows[VALIDATION], label="label"),
        model={
            "kind": "fusion",
            "encoders": {
                "image": {"kind": "small_cnn", "size": 32, "widths": [8, 16]},
                "columns": {**columns, "width": 8},
            },
            "fusion": {"kind": "concat", "dim": 16},
        },
        objectives=[{"kind": "prediction"}],
    )


# Name of the finding -> the recipe, and the key that its fix changes; None: the data are changed.
FAULTS = {
    "shared_captions": (class_captions, "objectives.0.positives"),
    "false_negatives": (rows_for_captions, "data.train.group_by"),
    "validation_images_in_training": (images_on_both_sides, "data.validation"),
    "near_duplicates_in_training": (images_saved_again, "data.validation"),
    "placeholder_image": (placeholder, None),
    "blank_images": (blank, None),
    "broken_rows": (files_that_are_gone, None),
    "truncated_texts": (
        lambda photos, make: make(model__encoders__text__max_length=8),
        "model.encoders.text.max_length",
    ),
    "unknown_words": (
        lambda photos, make: make(
            model__encoders__text__tokenizer={"kind": "trained", "model": "word", "vocab_size": 60}
        ),
        "model.encoders.text.tokenizer",
    ),
    "learning_rate_too_low": (
        lambda photos, make: make(train__learning_rate=1e-7),
        "train.learning_rate",
    ),
    "learning_rate_too_high": (
        lambda photos, make: make(train__learning_rate=0.1),
        "train.learning_rate",
    ),
    "pretrained_learning_rate_too_high": (
        lambda photos, make: make(model__encoders__image=PACKAGED),
        "model.encoders.image.learning_rate_scale",
    ),
    "pretrained_learning_rate_too_low": (
        lambda photos, make: make(model__encoders__image={**PACKAGED, "learning_rate_scale": 1e-4}),
        "model.encoders.image.learning_rate_scale",
    ),
    "small_batch": (
        lambda photos, make: make(train__batch_size=4),
        "train.batch_size",
    ),
    "few_steps": (
        lambda photos, make: make(train__batch_size=256, train__epochs=5),
        "train.batch_size",
    ),
    "random_encoder_is_frozen": (
        lambda photos, make: make(model__encoders__image__freeze="all"),
        "model.encoders.image.freeze",
    ),
    "images_smaller_than_pretrained": (
        lambda photos, make: make(model__encoders__image={**PACKAGED, "freeze": "all", "size": 64}),
        "model.encoders.image.size",
    ),
    "column_gives_target_away": (leak, "model.encoders.columns.categorical"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_alone_and_its_fix_removes_it(name, photos, recipe):
    seed, key = FAULTS[name]
    values = seed(photos, recipe)
    found = findings(values)
    assert list(found) == [name]
    assert found[name].evidence
    assert bool(found[name].settings) == (key is not None)
    if key is not None:
        assert key in found[name].settings
        assert name not in findings(fixed(values, found[name]))


def test_captions_that_differ_in_writing_alone_are_false_negatives(photos, recipe):
    found = findings(captions_written_differently(photos, recipe))
    assert "case and punctuation" in found["false_negatives"].evidence


def test_a_size_is_suggested_that_the_weights_were_made_for(photos, recipe):
    seed, _ = FAULTS["images_smaller_than_pretrained"]
    found = findings(seed(photos, recipe))["images_smaller_than_pretrained"]
    native = PackagedImageConfig(name="efficientnet-lite0").preprocessor().size
    assert found.settings == {"model.encoders.image.size": native}


def test_missing_images_are_named(photos, recipe):
    found = findings(files_that_are_gone(photos, recipe))["broken_rows"]
    assert "no such image file (64)" in found.evidence
    assert Path(found.where).name == found.where  # the name of the source


def test_a_recipe_without_a_fault_has_no_finding(photos, recipe):
    assert findings(recipe()) == {}
