"""An image of which a part is to be made anew, and that part: read in rows, so that its size does not matter."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from largegen.slides.lazy_image import ReadRows, read_mirrored

MOSTLY_NEW = 0.25  # of a tile, from which on its old embedding no longer says what it shows
BAND_PX = 256  # rows of an image that are read at once, where nothing else tells


@dataclass(frozen=True)
class Original:
    """An image and the part of it that may change."""

    size: tuple[int, int]  # (H, W), px
    pixels: ReadRows  # gives (n, W, 3) uint8
    mask: ReadRows  # gives (n, W) bool, True where the image may change

    @classmethod
    def of_arrays(cls, image: np.ndarray, mask: np.ndarray) -> "Original":
        """Take an image (H, W, 3) uint8 and a mask (H, W) bool in memory."""
        return cls(mask.shape, lambda top, bottom: image[top:bottom], lambda top, bottom: mask[top:bottom])

    def bands(self, rows: int = 0) -> Iterator[tuple[int, int]]:
        """Cut the image into bands of so many rows, 0: of the default: (top, bottom) from the top to the end."""
        rows = rows or BAND_PX
        for top in range(0, self.size[0], rows):
            yield top, min(top + rows, self.size[0])

    def touched(self, side: int) -> np.ndarray:
        """Find the squares of `side` px that the mask touches: (ceil(H / side), ceil(W / side)) bool."""
        squares = [pooled(self.mask(*band), side) for band in self.bands(side * max(1, BAND_PX // side))]
        return np.concatenate(squares)

    def changed(self, side: int) -> np.ndarray:
        """Find the tiles of `side` px that will show something else: (ceil(H / side), ceil(W / side)) bool.

        They are those of which the mask covers `MOSTLY_NEW` or more; if there is none, those of which it covers most.
        """
        tops, lefts = (np.arange(0, length, side) for length in self.size)
        heights, widths = (np.diff([*starts, length]) for starts, length in zip((tops, lefts), self.size, strict=True))
        counts = [
            np.add.reduceat(
                np.add.reduceat(self.mask(*band).astype(np.int64), range(0, band[1] - band[0], side)), lefts, 1
            )
            for band in self.bands(side * max(1, BAND_PX // side))
        ]
        shares = np.concatenate(counts) / heights[:, None] / widths
        found: np.ndarray = shares >= min(MOSTLY_NEW, shares.max())
        return found

    def extended(self, top: int, bottom: int, width: int) -> np.ndarray:
        """Read rows of the image, mirrored at its end where they lie beyond: (bottom - top, width, 3) uint8."""
        return read_mirrored(self.pixels, self.size, (top, bottom), (0, width))


def pooled(mask: np.ndarray, side: int) -> np.ndarray:
    """Say of each square of `side` px whether a mask (H, W) is True anywhere in it."""
    rows, cols = (range(0, length, side) for length in mask.shape)
    found: np.ndarray = np.logical_or.reduceat(np.logical_or.reduceat(mask, rows, 0), cols, 1)
    return found
