"""What is asked, as a vector, and what a search gives back."""

import numpy as np
import pytest

from amodal.search.description import StoreError
from amodal.search.query import query_vector, returned_modality


class Model:
    modalities = ("image", "text")
    dim = 2

    def fingerprint(self):
        return "weights"

    def encode(self, **values):
        return np.array([{"image": (1.0, 0.0), "text": (0.0, 1.0)}[name] for name in values])


def test_a_query_of_two_parts_lies_between_them():
    np.testing.assert_array_equal(query_vector(Model(), {"text": "a"}), (0, 1))
    np.testing.assert_array_equal(query_vector(Model(), {"text": "a", "image": "b"}), (0.5, 0.5))
    with pytest.raises(StoreError, match="no audio encoder; it takes image, text"):
        query_vector(Model(), {"audio": "c"})


@pytest.mark.parametrize(
    ("asked", "counts", "alone", "returned"),
    [
        (None, {"image": 2, "text": 2}, "text", "image"),
        (None, {"image": 2, "text": 2}, "image", "text"),
        (None, {"image": 2}, "image", None),
        ("text", {"image": 2}, "text", "text"),
        ("all", {"image": 2, "text": 2}, "text", None),
    ],
)
def test_a_search_goes_across_modalities_where_it_can(asked, counts, alone, returned):
    assert returned_modality(asked, counts, alone=alone) == returned
