"""Small real files that the sources read."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def write_image():
    """Writes an image of its own for every seed, and returns its path."""

    def write(path, seed=0, size=(20, 16)):
        path.parent.mkdir(parents=True, exist_ok=True)
        g = np.random.default_rng(seed)
        small = Image.fromarray(g.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        small.resize(size).save(path)
        return path

    return write
