"""Runs in which nothing is wrong: no finding at all."""

import pytest
from photo_tables import TRAIN, VALIDATION

from amodal.doctor import diagnose, open_subject
from amodal.training.recipe import load_recipe
from amodal.training.run import train_run

pytestmark = pytest.mark.slow


def assert_no_finding(folder, parts):
    subject = open_subject(str(folder))
    diagnosis = diagnose(subject)
    assert diagnosis.findings == ()
    assert not diagnosis.skipped
    assert subject.parts == parts
    assert len(diagnosis.checked) >= 15


def test_the_quickstart_scaled_down_has_no_finding(tmp_path):
    smaller = [
        *(f"data.{part}.image_size=32" for part in ("train", "validation")),
        "data.train.size=1000",
        "data.validation.size=200",
        "model.encoders.image={kind: small_cnn, size: 32, widths: [16, 32, 64]}",
        "train.batch_size=32",
        "train.evaluate_every=3",
        "train.epochs=9",
    ]
    train_run(load_recipe("quickstart", smaller), tmp_path / "run")
    assert_no_finding(tmp_path / "run", {"data", "recipe", "log", "model", "embeddings"})


def test_frozen_packaged_encoders_of_photos_have_no_finding(photos, recipe, run):
    values = recipe(
        data__train=photos.table("few", photos.rows[:160]),
        model__encoders={
            "image": {"kind": "packaged", "name": "efficientnet-lite0", "size": 128}
            | {"freeze": "all"},
            "text": {"kind": "packaged", "freeze": "all"},
        },
        model__projection={"kind": "mlp", "dim": 128, "hidden": 256},
        train__batch_size=20,
        train__epochs=5,
    )
    assert_no_finding(run(values), {"data", "recipe", "log", "model", "embeddings"})


def test_a_small_fusion_of_photos_and_captions_has_no_finding(photos, recipe, run):
    rows = [
        {**row, "caption": row["caption"][0], "label": kind}
        for row, kind in zip(photos.rows, photos.about_dogs(), strict=True)
    ]
    values = recipe(
        data__train=photos.table("classes", rows[TRAIN], label="label"),
        data__validation=photos.table("held out", rows[VALIDATION], label="label"),
        model={
            "kind": "fusion",
            "encoders": recipe()["model"]["encoders"],
            "fusion": {"kind": "gated", "dim": 32},
        },
        objectives=[{"kind": "prediction", "unimodal_weight": 0.3}],
    )
    assert_no_finding(run(values), {"data", "recipe", "log", "model"})
