"""The distance to the nearest training image, against a plain loop."""

import pytest
import torch

from amodal.metrics import image_distance
from amodal.metrics.image_distance import nearest_distance


def test_the_nearest_image_equals_that_of_a_loop(monkeypatch):
    monkeypatch.setattr(image_distance, "CHUNK", 7)
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (5, 3, 4, 4), generator=g)
    gallery = torch.randint(0, 256, (20, 3, 4, 4), generator=g)
    distance, index = nearest_distance(images, gallery)
    for i, image in enumerate(images.double()):
        distances = [(image - other).square().mean().sqrt().item() for other in gallery.double()]
        assert distance[i].item() == pytest.approx(min(distances), rel=1e-6)
        assert index[i] == distances.index(min(distances))


def test_a_copy_is_at_distance_zero():
    gallery = torch.arange(6 * 12.0).view(6, 3, 2, 2)
    distance, index = nearest_distance(gallery[[4, 1]], gallery)
    assert distance.tolist() == [0, 0]
    assert index.tolist() == [4, 1]


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        nearest_distance(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 4, 4))
