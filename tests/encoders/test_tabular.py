"""Columns of a table: what is read, what is missing, what is unknown, and what is refused."""

import math

import pytest
import torch

from amodal.encoders.tabular import TabularConfig, TabularPreprocessor

RECORDS = [
    {"origin": "t row 1", "age": 20, "city": "Bern", "price": "1.5"},
    {"origin": "t row 2", "age": 40, "city": "Ulm", "price": ""},
    {"origin": "t row 3", "age": None, "city": "Bern", "price": 2.5},
    {"origin": "t row 4", "age": 30, "city": None, "price": "much"},
]
CONFIG = TabularConfig(numerical=("age", "price"), categorical=("city",), width=16, heads=4)


def made():
    torch.manual_seed(0)
    prepare = CONFIG.preprocessor(RECORDS)
    return prepare, CONFIG.for_preprocessor(prepare).build().eval()


def test_numbers_are_standardised_by_training_rows_and_gaps_stay_gaps():
    prepare, _ = made()
    assert prepare.mean == pytest.approx((30.0, 2.0))
    assert prepare.std == pytest.approx((10.0, 0.5))  # of 20 and 40, and of 1.5 and 2.5
    rows = [prepare.read(r) for r in RECORDS[:3]]
    assert rows[1] == ((40.0, None), ("Ulm",))
    tensors = prepare(rows)
    assert tensors["numbers"].tolist()[0] == pytest.approx([-1, -1])
    assert tensors["numbers"][1].isnan().tolist() == [False, True]
    assert tensors["categories"].tolist() == [[2], [3], [2]]


def test_unknown_and_missing_categories_have_a_place_of_their_own():
    prepare, encoder = made()
    found = prepare([((20.0, 1.0), ("Paris",)), ((20.0, 1.0), (None,)), ((20.0, 1.0), ("Bern",))])
    assert found["categories"].flatten().tolist() == [1, 0, 2]
    tokens, keep = encoder(**found)
    assert tokens.shape == (3, 3, 16)
    assert keep is None
    assert not torch.allclose(tokens[0], tokens[1])
    assert not torch.allclose(tokens[0], tokens[2])


def test_a_missing_number_is_a_learned_vector_and_not_a_zero():
    prepare, encoder = made()
    known, gap = prepare([((30.0, 2.0), ("Bern",))]), prepare([((None, 2.0), ("Bern",))])
    assert known["numbers"][0, 0] == 0  # the mean
    assert not torch.allclose(encoder(**known)[0], encoder(**gap)[0])
    assert encoder(**gap)[0].isfinite().all()


def test_a_row_without_any_cell_is_no_row():
    prepare, _ = made()
    assert prepare.read({"origin": "x", "age": None, "city": " ", "price": ""}) is None
    assert prepare.read({"origin": "x", "city": "Ulm"}) == ((None, None), ("Ulm",))
    assert prepare.read({"origin": "x", "age": math.nan, "city": math.nan}) is None


def test_what_is_no_number_is_named():
    prepare, _ = made()
    with pytest.raises(ValueError, match="column 'price' contains 'much', expected a number"):
        prepare.read(RECORDS[3])
    with pytest.raises(ValueError, match="finite"):
        prepare.read({"age": "inf"})


def test_a_column_that_no_record_has_names_the_nearest():
    config = TabularConfig(numerical=("agee",), width=16)
    with pytest.raises(ValueError, match=r"no record has a column 'agee'.*nearest is 'age'"):
        config.preprocessor(RECORDS)
    with pytest.raises(ValueError, match="once"):
        TabularConfig(numerical=("a",), categorical=("a",))


def test_a_reopened_preprocessor_gives_the_same_tensors(tmp_path):
    prepare, _ = made()
    prepare.save(tmp_path)
    again = TabularPreprocessor.load(tmp_path)
    rows = [prepare.read(r) for r in RECORDS[:3]]
    for name, tensor in prepare(rows).items():
        assert torch.equal(again(rows)[name].nan_to_num(9), tensor.nan_to_num(9))


def test_constant_columns_and_no_rows_do_no_harm():
    prepare = TabularConfig(numerical=("a",), width=8).preprocessor([{"a": 5}, {"a": 5}])
    assert prepare([((5.0,), ())])["numbers"].tolist() == [[0.0]]
    assert prepare([])["numbers"].shape == (0, 1)


def test_every_parameter_learns():
    prepare, encoder = made()
    rows = [((20.0, None), ("Bern",)), ((None, 1.0), ("Ulm",)), ((1.0, 2.0), (None,))]
    rows += [((1.0, 2.0), ("Paris",))]
    tokens, _ = encoder.train()(**prepare(rows))
    tokens.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in encoder.parameters())


def test_a_mistyped_number_stays_finite_and_a_constant_of_rounding_is_a_constant():
    prepare, _ = made()
    assert prepare([((1e300, -1e300), ("Bern",))])["numbers"].tolist() == [[1e4, -1e4]]
    third = [{"a": 0.1 + 0.2}, {"a": 0.3}, {"a": 0.3}]
    prepare = TabularConfig(numerical=("a",), width=8).preprocessor(third)
    assert abs(prepare([((0.4,), ())])["numbers"].item()) < 1
