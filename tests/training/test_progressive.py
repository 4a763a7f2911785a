"""Training images that grow."""

import pytest
import torch
from pydantic import ValidationError

from amodal.data.batch import Batch
from amodal.encoders.image.small_cnn import SmallCNNConfig
from amodal.encoders.image.timm import TimmConfig
from amodal.training.progressive import ProgressiveResizing, accepts_image_size, shrink, side_at


def test_sides_grow_in_sixteens_and_end_full():
    config = ProgressiveResizing(initial_size=64, end_fraction=0.5)
    sides = [side_at(config, 100, step, 100) for step in range(100)]
    assert sides[0] == 64
    assert set(sides) == {64, 80, 96, 100}
    assert sides == sorted(sides)
    assert all(side == 100 for side in sides[50:])
    assert side_at(ProgressiveResizing(initial_size=64), 64, 0, 10) == 64


def test_images_are_scaled_and_the_rest_is_untouched():
    pixels = torch.randn(3, 3, 32, 32)
    ids = torch.ones(3, 4, dtype=torch.int64)
    batch = Batch(
        tensors={"image": {"pixel_values": pixels}, "text": {"input_ids": ids}},
        present={"image": torch.ones(3, 1, dtype=torch.bool)},
        item=torch.arange(3),
    )
    small = shrink(batch, 16)
    assert small.tensors["image"]["pixel_values"].shape == (3, 3, 16, 16)
    assert small.tensors["text"]["input_ids"] is ids
    torch.testing.assert_close(
        small.tensors["image"]["pixel_values"].mean((2, 3)), pixels.mean((2, 3)), atol=0.05, rtol=0
    )
    assert shrink(batch, 32) is batch


def test_networks_with_learned_positions_are_told_from_those_without():
    assert accepts_image_size(TimmConfig(name="resnet18", weights=False, size=32).build(), 16)
    assert not accepts_image_size(SmallCNNConfig(widths=(8, 16), size=32).build(), 16)


def test_a_start_below_sixteen_pixels_is_refused():
    with pytest.raises(ValidationError):
        ProgressiveResizing(initial_size=8)
