"""The distance to the nearest training image, against a plain loop."""

import pytest
import torch

from amodal.metrics import image_distance as drawing
from amodal.metrics.image_distance import nearest_distance


def test_the_nearest_image_is_that_of_a_plain_loop(monkeypatch):
    monkeypatch.setattr(drawing, "CHUNK", 7)
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (5, 3, 4, 4), generator=g)
    gallery = torch.randint(0, 256, (20, 3, 4, 4), generator=g)
    distance, place = nearest_distance(images, gallery)
    for i, image in enumerate(images.double()):
        all_of_them = [(image - other).square().mean().sqrt().item() for other in gallery.double()]
        assert distance[i].item() == pytest.approx(min(all_of_them), rel=1e-6)
        assert place[i] == all_of_them.index(min(all_of_them))


def test_a_copy_is_at_distance_zero():
    gallery = torch.arange(6 * 12.0).view(6, 3, 2, 2)
    distance, place = nearest_distance(gallery[[4, 1]], gallery)
    assert distance.tolist() == [0, 0]
    assert place.tolist() == [4, 1]


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        nearest_distance(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 4, 4))
