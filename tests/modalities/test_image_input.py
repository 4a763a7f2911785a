"""Images of a batch: resized as they are read where nothing augments them."""

import numpy as np
import pytest
import torch

from amodal.data.inputs import BatchContext
from amodal.encoders.image.preprocessing import ImagePreprocessor
from amodal.modalities.image import ImageInput


@pytest.mark.parametrize("resize", ["squash", "crop"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_large_images_of_a_batch_are_not_held_at_their_full_size(resize, interpolation):
    g = np.random.default_rng(0)
    images = [g.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((90, 60), (40, 400))]
    prepare = ImagePreprocessor(32, resize=resize, interpolation=interpolation)
    entry = ImageInput("image", prepare)
    read = [entry.read({"origin": "row", "image": image}) for image in images]
    assert [one.shape for one in read] == [(32, 32, 3)] * 2
    rows = entry.batch(read, BatchContext([g, g], [{}, {}]))
    assert torch.equal(rows.tensors["pixel_values"], prepare(images)["pixel_values"])
