"""Downsampling: bands of an image averaged as they pass by, and batches resized."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from largegen.models.pixels import to_network

GUIDE_SUPERSAMPLING = 4  # px per px of the guide, to which bands are averaged before they are resized properly


class BandDownsampler:
    """Averages squares of `factor` px of an image that arrives in bands, top to bottom."""

    def __init__(self, factor: int) -> None:
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
        """The downsampled image, (height // factor, width // factor, 3) uint8, once all bands have passed."""
        return np.concatenate(self._rows)


def tee_bands(bands: Iterable[tuple[int, np.ndarray]], *watchers: BandDownsampler) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the (y, band) of an image as they come, and give each band to the watchers."""
    for y, band in bands:
        for watcher in watchers:
            watcher.add(band)
        yield y, band


def shrink(images: Tensor, factor: int) -> Tensor:
    """Resize (B, 3, H, W) to a `factor`-th, bicubic and antialiased."""
    size = [side // factor for side in images.shape[-2:]]
    return F.interpolate(images, size, mode="bicubic", antialias=True)


def enlarge(images: Tensor, factor: int) -> Tensor:
    """Resize (B, 3, H, W) to `factor` times the size, bicubic."""
    size = [side * factor for side in images.shape[-2:]]
    return F.interpolate(images, size, mode="bicubic", antialias=True)


def guide_downsampler(factor: int) -> BandDownsampler:
    """Collect an image's bands for `guide_psnr` with a guide of a `factor`-th of its size."""
    return BandDownsampler(max(1, factor // GUIDE_SUPERSAMPLING))


def downsample_image(image: np.ndarray, factor: int) -> Tensor:
    """Resize (H, W, 3) uint8 -> (3, H / factor, W / factor) float32 in [-1, 1], bicubic and antialiased."""
    return shrink(to_network(image)[None], factor)[0].clamp(-1, 1) if factor > 1 else to_network(image)


def guide_psnr(guide: np.ndarray, result: np.ndarray) -> float:
    """Compute the PSNR in dB between the guide and the result, resized to the guide (bicubic).

    Args:
        guide: (h, w, 3) uint8.
        result: (n h, n w, 3) uint8.
    """
    resized = downsample_image(result, len(result) // len(guide))
    error = (resized - to_network(guide)).square().mean().item() / 4
    return -10 * float(np.log10(max(error, 1e-10)))
