"""Downsampling: bands of an image averaged as they pass by, and batches resized."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch.nn.functional as F
from torch import Tensor


class BandDownsampler:
    """Collects the means over squares of `factor` px of an image that arrives in bands, top to bottom.

    `image` is (height // factor, width // factor, 3) uint8 when all have passed.
    """

    def __init__(self, factor: int):
        self.factor = factor
        self._rest: np.ndarray | None = None
        self._rows: list[np.ndarray] = []

    def add(self, band: np.ndarray) -> None:
        """Take the next (h, width, 3) uint8 rows, any number of them."""
        if self._rest is not None:
            band = np.concatenate([self._rest, band])
        f = self.factor
        height, width = len(band) // f, band.shape[1] // f
        squares = band[: height * f, : width * f].reshape(height, f, width, f, 3)
        self._rows.append(np.rint(squares.mean((1, 3), dtype=np.float32)).astype(np.uint8))
        self._rest = band[height * f :].copy()

    @property
    def image(self) -> np.ndarray:
        return np.concatenate(self._rows)


def tee_bands(bands: Iterable[tuple[int, np.ndarray]], *watchers: BandDownsampler) -> Iterator[tuple[int, np.ndarray]]:
    """Pass the (y, band) of an image on, and each band to the watchers."""
    for y, band in bands:
        for watcher in watchers:
            watcher.add(band)
        yield y, band


def shrink(images: Tensor, factor: int) -> Tensor:
    """Antialiased bicubic resizing of (B, 3, H, W) to a `factor`-th."""
    size = [side // factor for side in images.shape[-2:]]
    return F.interpolate(images, size, mode="bicubic", antialias=True)


def enlarge(images: Tensor, factor: int) -> Tensor:
    """Bicubic resizing of (B, 3, H, W) to `factor` times the size."""
    size = [side * factor for side in images.shape[-2:]]
    return F.interpolate(images, size, mode="bicubic", antialias=True)
