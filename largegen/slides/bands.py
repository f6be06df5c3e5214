"""A slide read in bands from top to bottom, so that its size does not matter."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from largegen.slides.slide import Slide


BAND_PX = 2**21  # pixels of a band, about: larger ones are no faster to read


def read_bands(
    slide: "Slide", xy: tuple[int, int] = (0, 0), size: tuple[int, int] | None = None, downsample: float = 1.0
) -> Iterator[np.ndarray]:
    """Read a rectangle of a slide in bands, without gaps.

    Args:
        slide: open slide.
        xy: top-left corner, in level-0 pixels.
        size: (width, height), in output pixels; by default all of the slide.
        downsample: level-0 pixels per output pixel.

    Yields:
        (h, width, 3) uint8, from top to bottom.
    """
    (x, y), (width, height) = xy, size or (int(slide.width / downsample), int(slide.height / downsample))
    rows = max(1, BAND_PX // width)
    for top in range(0, height, rows):
        yield slide.read(x, y + top * downsample, width, min(rows, height - top), downsample)
