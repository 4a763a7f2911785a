"""Queries as vectors, and the input that a search returns."""

from types import SimpleNamespace

import numpy as np
import pytest

from amodal.search.description import StoreError
from amodal.search.query import (
    MAX_VALUE,
    input_of_type,
    named_values,
    parsed_value,
    query_vector,
    returned_input,
)


class Model:
    types = {"image": "image", "text": "text"}  # noqa: RUF012
    dim = 2

    def fingerprint(self):
        return "weights"

    def encode(self, **values):
        return np.array([{"image": (1.0, 0.0), "text": (0.0, 1.0)}[name] for name in values])


class TwoImages(Model):
    types = {"photo": "image", "sketch": "image", "caption": "text"}  # noqa: RUF012


def test_a_query_of_two_parts_lies_between_them():
    np.testing.assert_array_equal(query_vector(Model(), {"text": "a"}), (0, 1))
    np.testing.assert_array_equal(query_vector(Model(), {"text": "a", "image": "b"}), (0.5, 0.5))
    with pytest.raises(StoreError, match="no input 'audio'; its inputs are image, text"):
        query_vector(Model(), {"audio": "c"})


def test_values_are_named_by_type_where_that_is_clear():
    assert named_values(TwoImages(), {"text": "a"}, {"photo": "b.jpg"}) == {
        "caption": "a",
        "photo": "b.jpg",
    }
    with pytest.raises(StoreError, match=r"several inputs of type image: .*--input photo=VALUE"):
        input_of_type(TwoImages(), "image")
    with pytest.raises(StoreError, match="no input of type audio"):
        input_of_type(TwoImages(), "audio")
    with pytest.raises(StoreError, match="no input 'image'"):
        named_values(TwoImages(), {}, {"image": "b.jpg"})


@pytest.mark.parametrize(
    ("asked", "counts", "query", "returned"),
    [
        (None, {"image": 2, "text": 2}, "text", "image"),
        (None, {"image": 2, "text": 2}, "image", "text"),
        (None, {"image": 2}, "image", None),
        ("text", {"image": 2}, "text", "text"),
        ("all", {"image": 2, "text": 2}, "text", None),
    ],
)
def test_a_search_goes_across_inputs_where_it_can(asked, counts, query, returned):
    assert returned_input(asked, counts, Model.types, {query: "x"}) == returned


def test_a_text_finds_the_first_input_that_is_no_text():
    counts = {"caption": 3, "photo": 3, "sketch": 3}
    assert returned_input(None, counts, TwoImages.types, {"caption": "x"}) == "photo"
    assert returned_input(None, counts, TwoImages.types, {"sketch": "x"}) == "caption"
    assert returned_input(None, {"sketch": 3}, TwoImages.types, {"photo": "x"}) is None


@pytest.mark.parametrize("type_", ["vector", "columns"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2", "not YAML"),
        ("[" * 5000, "more than 8 deep"),
        ("[1] " * 9 + "{" * 9, "more than 8 deep"),
        ("[&a [1, 1], *a]", "anchors and aliases"),
        ("[" + "9" * 5000 + "]", r"digits|unhashable"),
        ("[1, !!python/object:os.system 2]", r"could not determine a constructor|unhashable"),
        ("1" * (MAX_VALUE + 1), "at most 100,000"),
    ],
)
def test_hostile_values_are_refused_in_one_line(type_, text, message):
    with pytest.raises(StoreError, match=message) as refused:
        named_values(SimpleNamespace(types={"v": type_}), {}, {"v": text})
    assert str(refused.value).startswith("v: ")
    assert "\n" not in str(refused.value)


def test_values_are_read_as_they_are_written():
    with pytest.raises(StoreError, match="v: "):
        parsed_value("v", "columns", "- " * 40_000 + "1")  # at once
    assert parsed_value("v", "vector", "[1, 2.5]") == [1, 2.5]
    assert parsed_value("v", "columns", "rooms: 3, town: R & D") == {
        "rooms": 3,
        "town": "R & D",
    }
    assert parsed_value("v", "vector", "a: b: c.npy") == "a: b: c.npy"
    assert parsed_value("t", "text", "[" * 100) == "[" * 100
