"""Runs of a fusion: they learn, resume, and name recipes and data that cannot be used."""

import copy
import json

import numpy as np
import pytest
import torch

import amodal
from amodal.data.record import BrokenRecordError, DataError
from amodal.evaluators.prediction import predict_items, prediction_metrics
from amodal.models.fusion_model import FusionModel
from amodal.training.progress import ProgressCallbacks
from amodal.training.recipe import parse_recipe
from amodal.training.recipes.error import RecipeError
from amodal.training.run import train_run
from amodal.training.sources import open_sources

COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220)}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """240 rows whose answer needs the image's colour and the column's number together."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("table")
    rng = np.random.default_rng(0)
    for name, rgb in COLOURS.items():
        Image.fromarray(np.full((16, 16, 3), rgb, dtype=np.uint8)).save(folder / f"{name}.png")
    lines = ["photo,size,shop,kind,tags,price"]
    for i in range(240):
        colour, size = ("red", "blue")[i % 2], float(rng.choice([-1, 1]) + 0.2 * rng.normal())
        shop = rng.choice(["north", "south"])
        kind = "yes" if (colour == "red") == (size > 0) else "no"
        tags = "|".join(t for t in (colour, "large" if size > 0 else "", shop) if t)
        price = 100_000 + 5_000 * (colour == "red") + 3_000 * (size > 0)
        lines.append(f"{colour}.png,{size:.3f},{shop},{kind},{tags},{price}")
    header, rows = lines[0], lines[1:]
    (folder / "train.csv").write_text("\n".join([header, *rows[:200]]) + "\n")
    (folder / "test.csv").write_text("\n".join([header, *rows[200:]]) + "\n")
    return folder


def values(table, *, target=None, objective=None, augment=None, fusion=None, **train):
    source = {"kind": "table", "columns": {"image": "photo", "text": None}}
    return {
        "data": {
            "train": {**source, "path": str(table / "train.csv"), "group_by": None},
            "validation": {**source, "path": str(table / "test.csv")},
        },
        "model": {
            "kind": "fusion",
            "encoders": {
                "image": {"kind": "small_cnn", "size": 16, "widths": [8, 16], "norm": "group"},
                "columns": {
                    "kind": "columns", "numerical": ["size"], "categorical": ["shop"],
                    "width": 16, "heads": 2,
                },
            },
            "fusion": fusion or {"kind": "low_rank", "dim": 16, "rank": 4},
            "target": target or {"column": "kind"},
        },
        "objectives": [{"kind": "prediction", **(objective or {})}],
        "augment": augment or {},
        "train": {
            "epochs": 25, "batch_size": 20, "learning_rate": 1e-2, "precision": "fp32",
            "evaluate_every": 5, **train,
        },
    }  # fmt: skip


def items_of(table, values):
    """The same with an id per row: the images of this table are shared."""
    for part in ("train", "validation"):
        path = table / values["data"][part]["path"].rsplit("/", 1)[1]
        numbered = path.with_name(f"numbered_{path.name}")
        if not numbered.exists():
            header, *rows = path.read_text().splitlines()
            lines = [f"id,{header}", *(f"{i},{row}" for i, row in enumerate(rows))]
            numbered.write_text("\n".join(lines) + "\n")
        values["data"][part] |= {"path": str(numbered)}
        values["data"][part]["columns"] = {**values["data"][part]["columns"], "id": "id"}
        values["data"][part].pop("group_by", None)
    return values


def log_of(folder):
    return [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, table):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, train_run(parse_recipe(items_of(table, values(table)), "test"), folder)


def test_a_fusion_learns_what_no_modality_alone_knows(finished):
    _, result = finished
    assert result.metrics["prediction/accuracy"] >= 0.95
    assert result.metrics["prediction/accuracy/low"] <= result.metrics["prediction/accuracy"]
    assert result.metrics["prediction/image_only/accuracy"] <= 0.7
    assert result.metrics["prediction/columns_only/accuracy"] <= 0.7


def test_the_run_folder_opens_and_predicts_records(finished, table):
    folder, _ = finished
    model = amodal.load(folder)
    assert isinstance(model, FusionModel)
    predicted = model.predict(
        [
            {"image": str(table / "red.png"), "size": 1.0, "shop": "north"},
            {"image": str(table / "blue.png"), "size": 1.0},
            {"size": 1.0},
        ]
    )
    assert predicted.shape == (3, 2)
    assert predicted.sum(1) == pytest.approx(1)
    assert [model.target.classes[i] for i in predicted.argmax(1)[:2]] == ["yes", "no"]
    with pytest.raises(BrokenRecordError, match=r"records\[0\]"):
        model.predict([{"image": "nowhere.png"}])
    card = (folder / "README.md").read_text()
    assert "prediction/accuracy" in card
    assert "model.predict" in card


@pytest.mark.slow
def test_numbers_are_predicted_in_their_own_units(tmp_path, table):
    wanted = {"task": "regression", "column": "price"}
    recipe = items_of(table, values(table, target=wanted))
    result = train_run(parse_recipe(recipe, "test"), tmp_path / "run")
    assert result.metrics["prediction/r2"] >= 0.95
    assert result.metrics["prediction/mae"] <= 800
    predicted = amodal.load(tmp_path / "run").predict(
        [{"image": str(table / "red.png"), "size": 1.0}]
    )
    assert predicted == pytest.approx([108_000], abs=2500)


def test_several_classes_per_item_are_predicted(tmp_path, table):
    wanted = {"task": "multi_label", "column": "tags"}
    recipe = items_of(table, values(table, target=wanted, epochs=12))
    result = train_run(parse_recipe(recipe, "test"), tmp_path / "run")
    assert result.model.target.classes == ("blue", "large", "north", "red", "south")
    assert result.metrics["prediction/mean_average_precision"] >= 0.95


class _Stop(Exception):
    pass


@pytest.mark.parametrize(
    "objective",
    [
        {"unimodal_weight": 0.5},
        {"balance": {"kind": "gradient_blending"}},
        {"balance": {"kind": "gradient_modulation"}},
    ],
    ids=["plain", "blending", "modulation"],
)
def test_a_run_that_was_cut_off_resumes_as_if_it_had_not_been(tmp_path, table, objective):
    recipe = items_of(
        table,
        values(
            table,
            objective=objective,
            augment={"modality_dropout": {"image": 0.3}},
            fusion={"kind": "gated", "dim": 16, "gate": "precision"},
            epochs=4,
            evaluate_every=1,
            log_every=1,
        ),
    )
    parsed = parse_recipe(recipe, "test")
    train_run(parsed, tmp_path / "whole")

    def stop(step, logged):
        if step == 27 and "loss" in logged:
            raise _Stop

    with pytest.raises(_Stop):
        train_run(parsed, tmp_path / "cut", callbacks=ProgressCallbacks(logged=stop))
    train_run(parsed, tmp_path / "cut", resume=True)
    want, got = log_of(tmp_path / "whole"), log_of(tmp_path / "cut")
    assert [line["step"] for line in got] == [line["step"] for line in want]
    for a, b in zip(want, got, strict=True):
        for name in a.keys() - {"seconds", "data_seconds"}:
            assert b[name] == pytest.approx(a[name], abs=1e-6), (a["step"], name)
    steps = [line for line in want if "loss" in line]
    if objective.get("balance", {}).get("kind") == "gradient_blending":
        shares = {k: v for k, v in steps[-1].items() if k.startswith("blending_weight/")}
        assert set(shares) == {
            "blending_weight/fused",
            "blending_weight/image",
            "blending_weight/columns",
        }
        assert sum(shares.values()) == pytest.approx(1)
        assert max(shares.values()) > 0.4  # no longer a third each
    if objective.get("balance", {}).get("kind") == "gradient_modulation":
        factors = [line["gradient_modulation/image"] for line in steps]
        assert all(0 < f <= 1 for f in factors)
        assert min(*factors, *(line["gradient_modulation/columns"] for line in steps)) < 1


def test_the_leading_input_moves_by_the_factor_of_modulation_under_adam_too(
    tmp_path, table, monkeypatch
):
    """Adam divides by the size of the gradient, so a factor on the gradient alone would vanish."""

    def weights(name, rate, factor):
        monkeypatch.setattr(
            "amodal.training.tasks.fusion.gradient_modulation_factors",
            lambda confidence, alpha: {m: factor if m == "image" else 1.0 for m in confidence},
        )
        modulated = {"balance": {"kind": "gradient_modulation", "noise": False}}
        recipe = items_of(
            table,
            values(
                table, objective=modulated, epochs=0.1, learning_rate=rate, warmup=0.0,
                weight_decay=0.0, checkpoint="last",
            ),
        )  # fmt: skip
        model = train_run(parse_recipe(recipe, "test"), tmp_path / name).model
        return {n: p.detach().clone() for n, p in model.named_parameters()}

    start = weights("start", 1e-12, 1.0)
    free, held = weights("free", 1e-3, 1.0), weights("held", 1e-3, 0.25)
    moved = 0
    for name, before in start.items():
        factor = 0.25 if name.startswith(("encoders.image.", "poolings.image.")) else 1.0
        expected = factor * (free[name] - before)
        torch.testing.assert_close(held[name] - before, expected, rtol=1e-3, atol=1e-6)
        moved += factor < 1 and bool(expected.abs().max() > 1e-4)
    assert moved > 2


def test_micro_batches_give_the_gradient_of_the_whole_batch(tmp_path, table):
    lines = {}
    for size in (None, 7):
        recipe = items_of(table, values(table, epochs=1, micro_batch_size=size, log_every=1))
        folder = tmp_path / f"run_{size}"
        train_run(parse_recipe(recipe, "test"), folder)
        lines[size] = [line for line in log_of(folder) if "loss" in line]
    for a, b in zip(lines[None], lines[7], strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-3)


def test_metrics_need_the_target_and_predictions_do_not(finished, table):
    folder, _ = finished
    recipe = parse_recipe(items_of(table, values(table)), "test")
    source = open_sources(recipe)[1]
    model = amodal.load(folder)
    without = predict_items(model, source, items=range(5), with_target=False)
    assert (without.target == -100).all()
    with pytest.raises(DataError, match="'kind'"):
        prediction_metrics(without, model.target)
    with_target = predict_items(model, source, items=range(5))
    assert torch.equal(with_target.logits, without.logits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"fusion": {"kind": "gatd"}}}, "did you mean `gated`"),
        ({"objectives": [{"kind": "info_nce"}]}, "one objective, {kind: prediction}"),
        ({"objectives": [{"kind": "prediction"}] * 2}, "one objective"),
        ({"augment": {"modality_dropout": {"sound": 0.2}}}, "encoders of image, columns"),
        ({"data": {"captions_per_item": 2}}, "leave data.captions_per_item"),
        (
            {"objectives": [{"kind": "prediction", "unimodal_weight": 1}],
             "model": {"head": {"unimodal_heads": False}}},
            "need model.head.unimodal_heads",
        ),
        ({"model": {"encoders": {"columns": None}}}, "two encoders or more"),
        ({"model": {"fusion": {"kind": "gated", "dims": 3}}}, "did you mean `dim`"),
    ],
)  # fmt: skip
def test_recipes_that_do_not_fit_are_refused(table, change, message):
    recipe = merged(values(table), change)
    with pytest.raises(RecipeError, match=message.replace("{", r"\{").replace(".", r"\.")):
        parse_recipe(recipe, "test")


def test_predictions_and_dropout_belong_to_fusions():
    recipe = {
        "data": {"train": "scenes:size=4"},
        "model": {"encoders": {"image": {"kind": "small_cnn"}}},
    }
    with pytest.raises(RecipeError, match="needs a model of kind fusion"):
        parse_recipe({**recipe, "objectives": [{"kind": "prediction"}]}, "test")
    with pytest.raises(RecipeError, match="modality_dropout needs a model of kind fusion"):
        parse_recipe({**recipe, "augment": {"modality_dropout": 0.1}}, "test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"target": {"column": "colour"}}}, "no record has a value in column 'colour'"),
        ({"model": {"target": {"column": "photo", "task": "regression"}}}, "photo"),
        ({"model": {"encoders": {"columns": {"numerical": ["sise"]}}}}, "sise"),
        ({"model": {"encoders": {"text": {"kind": "small_transformer"}}}}, "no record has text"),
    ],
)
def test_data_that_does_not_fit_is_named(tmp_path, table, change, message):
    recipe = parse_recipe(merged(items_of(table, values(table)), change), "test")
    with pytest.raises(DataError, match=message):
        train_run(recipe, tmp_path / "run")


def merged(a, b):
    found = copy.deepcopy(a)
    for key, value in b.items():
        both = isinstance(value, dict) and isinstance(found.get(key), dict)
        # Another kind has other keys: nothing of the old one may stay.
        both = both and value.get("kind") in (None, found[key].get("kind"))
        found[key] = merged(found[key], value) if both else value
    return found
