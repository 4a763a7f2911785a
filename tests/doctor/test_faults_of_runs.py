"""Faults seeded into runs on real photos: each is named from the log, metrics or embeddings."""

import json

import pytest
from PIL import Image

from amodal.doctor import diagnose, open_subject
from amodal.training.recipe import set_value

pytestmark = pytest.mark.slow


def findings(folder):
    """Name -> finding about a run."""
    diagnosis = diagnose(open_subject(str(folder)))
    assert not diagnosis.skipped
    return {finding.name: finding for finding in diagnosis.findings}


def fixed(values, finding):
    for key, value in finding.settings.items():
        set_value(values, key, value)
    return values


def test_steps_that_are_too_small_leave_the_loss_at_chance(recipe, run):
    values = recipe(train__learning_rate=1e-7)
    found = findings(run(values))
    assert set(found) == {"learning_rate_too_low", "loss_at_chance"}
    assert "3.466 in batches of 32" in found["loss_at_chance"].evidence
    assert found["loss_at_chance"].settings["train.learning_rate"] > 1e-5


def test_steps_that_are_too_large_collapse_the_embeddings(recipe, run):
    found = findings(run(recipe(train__learning_rate=0.5)))
    assert {"collapsed_embeddings", "loss_at_chance", "learning_rate_too_high"} == set(found)
    for name in found:
        assert found[name].settings["train.learning_rate"] < 0.5


def test_a_temperature_that_cannot_fall_is_at_its_bound(vector_recipe, run):
    sharp = {"kind": "info_nce", "temperature": 0.2, "min_temperature": 0.2}
    values = vector_recipe(objectives=[sharp])
    found = findings(run(values))
    assert list(found) == ["temperature_at_bound"]
    assert found["temperature_at_bound"].settings == {"objectives.0.min_temperature": 0.01}
    again = run(fixed(values, found["temperature_at_bound"]), "fixed")
    assert "temperature_at_bound" not in findings(again)


def test_noisy_classes_that_are_learned_by_heart_are_overfitting(vectors, recipe, run):
    kinds = vectors.about_dogs()
    flipped = {"dog": "other", "other": "dog"}
    noisy = [flipped[kind] if row % 3 == 0 else kind for row, kind in enumerate(kinds)]
    vector = {"type": "vector", "kind": "vector", "width": 64}
    values = recipe(
        data__train=vectors.vectors("noisy", range(300), label=noisy),
        data__validation=vectors.vectors("clean", range(300, 450), label=kinds),
        model={
            "kind": "fusion",
            "encoders": {"photo": vector, "words": vector},
            "fusion": {"kind": "concat", "dim": 64},
            "head": {"hidden": 64},
        },
        objectives=[{"kind": "prediction"}],
        train__epochs=24,
        train__learning_rate=2e-3,
        train__weight_decay=0.01,
    )
    found = findings(run(values))
    assert list(found) == ["overfitting"]
    assert found["overfitting"].settings["train.epochs"] < 12


def test_captions_of_other_images_are_learned_by_heart_alone(vectors, vector_recipe, run):
    shuffled = vectors.vectors("shuffled", range(300), shuffled=1.0)
    found = findings(run(vector_recipe(data__train=shuffled, train__epochs=16)))
    assert list(found) == ["validation_at_chance"]
    assert "captions belong to its images" in found["validation_at_chance"].advice


def test_a_low_temperature_from_the_start_keeps_the_modality_gap(vector_recipe, run):
    sharp = {"kind": "info_nce", "temperature": 0.01}
    values = vector_recipe(objectives=[sharp], train__learning_rate=2e-4, train__epochs=12)
    found = findings(run(values))
    assert list(found) == ["modality_gap"]
    assert found["modality_gap"].settings == {"model.normalization": ["center", "l2"]}
    again = run(fixed(values, found["modality_gap"]), "fixed")
    assert findings(again) == {}


def test_large_png_files_keep_steps_waiting(photos, recipe, run):
    rows = []
    for row in photos.rows[:64]:
        file = photos.folder / f"{row['id']}.png"
        Image.open(row["image"]).resize((1200, 900)).save(file, compress_level=1)
        rows.append({**row, "image": str(file)})
    values = recipe(data__train=photos.table("large", rows), train__batch_size=16)
    found = findings(run(values))
    assert "waiting_for_data" in found
    assert found["waiting_for_data"].settings == {"data.cache": True}


def test_pixels_scaled_otherwise_than_for_the_weights_are_found(photos, recipe, run):
    image = {"kind": "packaged", "name": "efficientnet-lite0", "size": 112, "freeze": "all"}
    values = recipe(
        data__train=photos.table("few", photos.rows[:64]),
        model__encoders__image=image,
        train__epochs=15,
        train__evaluate_every=15,
    )
    folder = run(values)
    file = folder / "image" / "preprocessor_config.json"
    settings = json.loads(file.read_text())
    made_for = settings["mean"]
    file.write_text(json.dumps({**settings, "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}))
    found = findings(folder)
    assert "wrong_normalization" in found
    assert f"{made_for[0]:.3g}" in found["wrong_normalization"].advice
    file.write_text(json.dumps(settings))
    assert "wrong_normalization" not in findings(folder)


def test_a_sweep_suggests_a_rate_for_one_that_is_too_low(vector_recipe):
    from amodal.doctor import Subject
    from amodal.training.recipe import parse_recipe

    values = vector_recipe(train__learning_rate=2e-5, train__epochs=30)
    subject = Subject("test", recipe=parse_recipe(values, "test"))
    diagnosis = diagnose(subject, sweep=True)
    (found,) = diagnosis.findings
    assert found.name == "learning_rate_sweep"
    assert found.settings["train.learning_rate"] > 1e-4
    assert len(diagnosis.swept) == 7
