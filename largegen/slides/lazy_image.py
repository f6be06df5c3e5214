"""An image of which rows are read when they are asked for, so that its size does not matter."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

ReadRows = Callable[[int, int], np.ndarray]  # (top, bottom) -> (bottom - top, width, ...)


@dataclass(frozen=True)
class LazyImage:
    """An image that gives its rows as an array (H, W, 3) uint8 does: `image[top:bottom]`."""

    shape: tuple[int, int, int]  # (H, W, 3)
    read: ReadRows

    def __len__(self) -> int:
        """Return the height."""
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Read rows, (n, W, 3) uint8."""
        top, bottom, _ = rows.indices(self.shape[0])
        return self.read(top, max(top, bottom))


def read_mirrored(read: ReadRows, size: tuple[int, int], rows: tuple[int, int], cols: tuple[int, int]) -> np.ndarray:
    """Read a rectangle of an image that goes on around its borders as in mirrors.

    Args:
        read: gives rows of the image.
        size: (H, W) of it, in px.
        rows: the first and that after the last, of the image's own and beyond.
        cols: likewise.
    """
    down, across = (_folded(np.arange(*span), length) for span, length in zip((rows, cols), size, strict=True))
    top = int(down.min())
    band = read(top, int(down.max()) + 1)
    found: np.ndarray = band[down - top]
    return found if np.array_equal(across, np.arange(size[1])) else found[:, across]


def _folded(places: np.ndarray, length: int) -> np.ndarray:
    """Find which of `length` places each of those beyond is the mirror image of."""
    twice = places % (2 * length)
    folded: np.ndarray = np.minimum(twice, 2 * length - 1 - twice)
    return folded
