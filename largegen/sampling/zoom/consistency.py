"""An image held to what it looks like at a low magnification, in pixels: iterative back-projection, in bands.

The constraint on latents is exact for a linear decoder only; this mends what the real one has left.
"""

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from largegen.models.pixels import to_images, to_network
from largegen.sampling.zoom.downsample import enlarge, shrink
from largegen.slides.lazy_image import LazyImage

ROUNDS = 8  # at most; each adds what the image, shrunk, still lacks (Irani & Peleg 1991)
ENOUGH_DB = 48  # of a chunk, after which it is let be: pixels are rounded anyway
CHUNK = 32  # rows of the guide that are mended at once
MARGIN = 12  # rows around them that are mended with them and dropped: farther than the rounds reach


class Likeness:
    """How like its guide an image is when it is shrunk, once all its bands have passed."""

    def __init__(self) -> None:
        self._squares, self.count = 0.0, 0  # and values

    def add(self, error: torch.Tensor) -> None:
        """Take differences of pixels in [-1, 1]."""
        self._squares += error.double().square().sum().item()
        self.count += error.numel()

    @property
    def psnr(self) -> float:
        """In dB, at most 100."""
        return -10 * math.log10(max(self._squares / max(1, self.count) / 4, 1e-10))


def hold_to_guide(
    bands: Iterable[tuple[int, np.ndarray]],
    guide: np.ndarray | LazyImage,
    factor: int,
    likeness: Likeness | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Change an image as little as makes it look like its guide when it is shrunk (bicubic, antialiased).

    Args:
        bands: (y0, (h, W, 3) uint8) of the image from top to bottom without gaps; h may vary.
        guide: (H / factor, W / factor, 3) uint8.
        factor: px of the image per px of the guide, in each direction.
        likeness: is told how far the changed image is from the guide.

    Yields:
        (y0, band) of the changed image, likewise.
    """
    height = len(guide)
    held, first, done = np.empty((0, guide.shape[1] * factor, 3), np.uint8), 0, 0  # rows from `first` * factor on
    for _, band in bands:
        held = np.concatenate([held, band])
        while done < height:
            top, bottom = max(0, done - MARGIN), min(height, done + CHUNK + MARGIN)
            if (bottom - first) * factor > len(held):
                break
            rows = held[(top - first) * factor : (bottom - first) * factor]
            mended = _mend(rows, guide[top:bottom], factor)
            count = min(CHUNK, height - done)
            if likeness is not None:
                error = shrink(to_network(mended)[None], factor)[0] - to_network(guide[top:bottom])
                likeness.add(error[:, done - top :][:, :count])
            yield done * factor, mended[(done - top) * factor :][: count * factor]
            done += count
            keep = max(0, done - MARGIN)
            held, first = held[(keep - first) * factor :], keep


def _mend(rows: np.ndarray, guide: np.ndarray, factor: int) -> np.ndarray:
    image, wanted = to_network(rows)[None], to_network(guide)[None]
    for _ in range(ROUNDS):
        lacking, seen = wanted - shrink(image, factor), Likeness()
        seen.add(lacking)
        if seen.psnr >= ENOUGH_DB:
            break
        image = torch.clamp(image + enlarge(lacking, factor), -1, 1)
    return to_images(image[0])
