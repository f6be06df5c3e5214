"""Where a slide holds tissue (or, in a scene, data), and how much of it is enough."""

from typing import TYPE_CHECKING

import numpy as np

from largegen.errors import InputError
from largegen.slides.slide import Slide

if TYPE_CHECKING:
    from largegen.slides.slide import Slide


LOWEST_SATURATION = 0.05  # glass stays below it whatever Otsu says: a slide without tissue has no tissue
HIGHEST_SATURATION = 0.15  # tissue stays above it: Otsu would split a slide full of tissue in two
TISSUE_FRACTION = 0.1  # of a tile that must be tissue for the tile to be kept
DATA_FRACTION = 0.5  # of a scene's tile that must hold data
MIN_TISSUE = 0.25  # of a region's tiles must hold tissue; the others may lie off it or off the slide


def tissue_mask(slide: "Slide", threshold: float | None = None, max_px: int = 2048) -> np.ndarray:
    """(h, w) bool over a thumbnail: True on tissue. For scenes: True where there is data.

    Tissue is what is more saturated (HSV, 0..1) than Otsu's threshold, held within 0.05 and 0.15;
    `threshold` replaces it.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"--tissue-threshold {threshold}: a saturation, from 0 to 1")
    if slide.kind == "scene":
        return ~slide.nodata_mask(max_px)
    colour = _blur(slide.thumbnail(max_px))
    highest = colour.max(axis=2).astype(np.float32)
    saturation = (highest - colour.min(axis=2)) / np.maximum(highest, 1)
    if threshold is None:
        threshold = float(np.clip(otsu(saturation), LOWEST_SATURATION, HIGHEST_SATURATION))
    return saturation > threshold


def _blur(thumbnail: np.ndarray) -> np.ndarray:
    """Smooth over about two pixels: the noise of glass and the holes between fibres are not objects."""
    from PIL import Image, ImageFilter

    return np.asarray(Image.fromarray(thumbnail).filter(ImageFilter.GaussianBlur(2)))


def otsu(values: np.ndarray, bins: int = 256) -> float:
    """The threshold in 0..1 that splits `values` (0..1) with most between-class variance (Otsu 1979)."""
    counts, edges = np.histogram(values, bins, (0, 1))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = values.size - below
    sum_below = np.cumsum(counts * centres)[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = sum_below / below - ((counts * centres).sum() - sum_below) / above
        between = np.nan_to_num(below * above * difference**2)
    best = np.flatnonzero(between == between.max())  # equal all over a gap between classes
    return float(edges[1 + round(best.mean())])
