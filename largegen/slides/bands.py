"""An image read in bands from top to bottom, so that its size does not matter."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from largegen.slides.slide import Slide


BAND_PX = 2**21  # pixels of a band, about: larger ones are no faster to read


def read_bands(
    slide: "Slide", xy: tuple[int, int] = (0, 0), size: tuple[int, int] | None = None, downsample: float = 1.0
) -> Iterator[np.ndarray]:
    """Yield (h, width, 3) uint8 bands of a rectangle of a slide, without gaps.

    xy: its top-left corner in level-0 px; size: (width, height) in px of `downsample` level-0 px each, by default all.
    """
    (x, y), (width, height) = xy, size or (int(slide.width / downsample), int(slide.height / downsample))
    rows = max(1, BAND_PX // width)
    for top in range(0, height, rows):
        yield slide.read(x, y + top * downsample, width, min(rows, height - top), downsample)
