"""The fusion model: any modality may be missing, a reopened run predicts the same."""

import math

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from amodal.data.batch import Batch
from amodal.data.record import BrokenRecordError, DataError, sample_rng
from amodal.losses.prediction import prediction_loss
from amodal.models.fusion_model import FusionArchitecture, FusionModel, build_fusion_model
from amodal.models.inputs import collator_of
from amodal.models.target import TargetConfig

RNG = np.random.default_rng(0)
RECORDS = [
    {
        "id": str(i),
        "origin": f"t.csv row {i + 1}",
        "image": RNG.integers(0, 255, (32, 32, 3)).astype(np.uint8),
        "text": [f"a {word} thing"],
        "z": RNG.normal(size=5).tolist(),
        "age": 20 + i,
        "city": ("Bern", "Ulm")[i % 2],
        "label": ("cat", "dog", "owl")[i % 3],
        "price": float(i),
    }
    for i, word in enumerate(["red", "blue", "green", "small", "large", "round"])
]
ENCODERS = {
    "image": {"kind": "small_cnn", "size": 32, "widths": [8, 16]},
    "text": {"kind": "small_transformer", "width": 16, "layers": 1, "heads": 2, "dropout": 0.0},
    "vector": {"kind": "vector", "column": "z", "width": 12},
    "columns": {
        "kind": "columns", "numerical": ["age"], "categorical": ["city"], "width": 8, "heads": 2,
    },
}  # fmt: skip
FUSIONS = {
    "concat": {"kind": "concat", "dim": 16, "hidden": 16},
    "gated": {"kind": "gated", "dim": 16},
    "low_rank": {"kind": "low_rank", "dim": 16},
    "cross_attention": {"kind": "cross_attention", "dim": 16, "heads": 2, "layers": 1},
    "bottleneck": {"kind": "bottleneck", "dim": 16, "heads": 2, "layers": 1},
}


def made(fusion="concat", *, head=None, target=None, encoders=ENCODERS):
    torch.manual_seed(0)
    architecture = TypeAdapter(FusionArchitecture).validate_python(
        {
            "encoders": encoders,
            "fusion": FUSIONS[fusion],
            "head": head or {"unimodal_heads": True},
            "target": target or {},
        }
    )
    model = build_fusion_model(architecture, lambda: iter(RECORDS)).eval()
    return model, collator_of(model, target=model.target)


def batch_of(collate, records=RECORDS):
    return collate(records, [sample_rng(0, 0, i) for i in range(len(records))])


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_reopened_model_predicts_bit_equally(tmp_path, fusion):
    model, collate = made(fusion)
    before = model(batch_of(collate))
    assert before.logits.shape == (6, 3)
    assert set(before.unimodal) == set(ENCODERS)
    model.save_pretrained(tmp_path / "run")
    again = FusionModel.from_pretrained(tmp_path / "run")
    assert again.target.classes == ("cat", "dog", "owl")
    collate = collator_of(again, target=again.target)
    assert torch.equal(again(batch_of(collate)).logits, before.logits)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_modality_may_be_missing_and_the_others_do_not_feel_it(fusion):
    model, collate = made(fusion)
    whole = model(batch_of(collate)).logits
    gone = {"image": ["image"], "text": ["text"], "vector": ["z"], "columns": ["age", "city"]}
    for modality, keys in gone.items():
        records = [{k: v for k, v in r.items() if k not in keys} for r in RECORDS[:2]]
        found = model(batch_of(collate, [*records, *RECORDS[2:]]))
        assert found.present[modality].tolist() == [False] * 2 + [True] * 4
        assert found.logits.isfinite().all()
        torch.testing.assert_close(found.logits[2:], whole[2:], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(found.logits[:2], whole[:2], atol=1e-4)


def test_an_item_without_anything_still_has_a_prediction():
    model, collate = made("cross_attention")
    nothing = [{"id": "x", "origin": "row 9", "label": "cat"}]
    logits = model(batch_of(collate, nothing)).logits
    assert logits.shape == (1, 3)
    assert logits.isfinite().all()


def test_targets_are_read_encoded_and_missing_ones_left_out():
    model, collate = made()
    records = [RECORDS[0], {**RECORDS[1], "label": None}, RECORDS[2]]
    batch = batch_of(collate, records)
    assert batch.target.tolist() == [0, -100, 2]
    loss = prediction_loss(model(batch).logits, batch.target, "classification")
    loss.backward()
    assert loss.isfinite()
    assert model.head[1].weight.grad.abs().max() > 0


def test_a_class_that_training_never_saw_is_a_broken_row():
    _, collate = made()
    batch = batch_of(collate, [RECORDS[0], {**RECORDS[1], "label": "bat"}])
    assert len(batch) == 1
    assert "t.csv row 2" in str(batch.broken[0])
    assert "'bat', which no training row has" in str(batch.broken[0])


def test_a_bad_cell_is_a_broken_row_that_names_its_origin():
    _, collate = made()
    batch = batch_of(collate, [RECORDS[0], {**RECORDS[1], "age": "old"}])
    assert len(batch) == 1
    assert str(batch.broken[0]) == "t.csv row 2: column 'age' contains 'old', expected a number"


def test_numbers_and_several_classes_can_be_predicted():
    regression, collate = made(target={"task": "regression", "column": "price"})
    batch = batch_of(collate)
    assert batch.target.tolist() == [0, 1, 2, 3, 4, 5]
    assert regression(batch).logits.shape == (6, 1)
    several = TargetConfig(task="multi_label", column="tags")
    tagged = [{"tags": "a|b", "origin": "1"}, {"tags": ["c"], "origin": "2"}, {"origin": "3"}]
    fitted = several.fit(tagged)
    assert fitted.classes == ("a", "b", "c")
    encoded = fitted.encode([fitted.read(r) for r in tagged])
    assert encoded[:2].tolist() == [[1, 1, 0], [0, 0, 1]]
    assert encoded[2].isnan().all()
    with pytest.raises(BrokenRecordError, match="expected a number"):
        TargetConfig(task="regression").read({"label": "much", "origin": "t row 1"})
    assert math.isnan(TargetConfig(task="regression").encode([None]).item())


def test_what_no_record_has_is_refused_by_name():
    with pytest.raises(DataError, match="no record has a value in column 'labl'"):
        made(target={"column": "labl"})
    wrong = {**ENCODERS, "columns": {"kind": "columns", "numerical": ["agee"], "heads": 4}}
    with pytest.raises(DataError, match=r"model\.encoders\.columns: .*nearest is 'age'"):
        made(encoders=wrong)
    one = [{**r, "label": "cat"} for r in RECORDS]
    with pytest.raises(DataError, match="one class only"):
        TargetConfig().fit(one)


def test_several_rows_per_item_are_refused():
    model, _ = made()
    collate = collator_of(model, captions=2, target=model.target)
    with pytest.raises(ValueError, match=r"text: fusion takes one row per item.*captions"):
        model(batch_of(collate))


def test_a_model_learns_from_all_modalities_together():
    model, collate = made("concat")
    batch: Batch = batch_of(collate)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(30):
        optimizer.zero_grad()
        prediction = model(batch)
        loss = prediction_loss(prediction.logits, batch.target, "classification")
        for logits in prediction.unimodal.values():
            loss = loss + prediction_loss(logits, batch.target, "classification")
        loss.backward()
        optimizer.step()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert (model(batch).logits.argmax(1) == batch.target).all()
