"""An image to write, and what its file says about it."""

import numpy as np
import pytest
from helpers.images import HEIGHT, PROVENANCE, WIDTH

from largegen.slides.image_info import ImageInfo


@pytest.fixture(scope="session")
def image():
    """(HEIGHT, WIDTH, 3) uint8, smooth, no two places alike: a JPEG keeps it, and a flip or a shift shows."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x * 255 // WIDTH, y * 255 // HEIGHT, (x + y) * 255 // (WIDTH + HEIGHT)], -1).astype(np.uint8)


@pytest.fixture
def info():
    return ImageInfo(WIDTH, HEIGHT, mpp=0.499, description="a synthetic image", provenance=PROVENANCE)
