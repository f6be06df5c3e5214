"""Where a slide holds tissue (or, in a scene, data), and how much of it is enough."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from largegen.errors import InputError

if TYPE_CHECKING:
    from largegen.slides.slide import Slide

LOWEST_SATURATION = 0.05  # glass stays below it whatever Otsu says: a slide without tissue has no tissue
HIGHEST_SATURATION = 0.15  # tissue stays above it: Otsu would split a slide full of tissue in two
DARKEST_TISSUE = 48  # of 255, in its brightest colour: the scanner's margin and its label are darker, and often tinted


class Enough(NamedTuple):
    """The one rule of what is kept: at least this part of its area is tissue in a slide, data in a scene (0..1)."""

    tissue: float
    data: float

    def of(self, kind: str) -> float:
        """Return the part that a `Slide.kind` needs."""
        return self.data if kind == "scene" else self.tissue


EMBEDDED_TILE = Enough(0.1, 0.5)  # a sliver of tissue has to be generated too; half a tile of no data is no landscape
TRAINING_CROP = Enough(0.1, 0.1)  # as embedded tiles, so that edges of tissue are learned
VALIDATION_CROP = Enough(0.25, 0.25)  # glass is easy: more of it would flatter a loss of few crops
EVALUATED_CROP = Enough(0.5, 1.0)  # metrics are of tissue; a scene's blank collar would count as a texture
REGION_TILES = 0.25  # of the tiles under a region of several; the others may lie off the tissue or off the slide


def tissue_mask(slide: "Slide", threshold: float | None = None, max_px: int = 2048) -> np.ndarray:
    """Find tissue on a thumbnail; in a scene, data. What is nearly black is none, whatever its tint.

    Args:
        slide: open slide.
        threshold: saturation (HSV, 0..1) above which a pixel is tissue; by default Otsu's, held within
            LOWEST_SATURATION and HIGHEST_SATURATION.
        max_px: longer side of the thumbnail at most.

    Returns:
        (h, w) bool over the whole slide.

    Raises:
        InputError: the threshold is no saturation.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"`tissue_threshold` {threshold}: a saturation, from 0 to 1")
    if slide.kind == "scene":
        return ~slide.nodata_mask(max_px)
    colour = _blur(slide.thumbnail(max_px))
    highest = colour.max(axis=2).astype(np.float32)
    saturation = (highest - colour.min(axis=2)) / np.maximum(highest, 1)
    bright = ~_dark(highest)
    if threshold is None:
        threshold = float(np.clip(otsu(saturation[bright]), LOWEST_SATURATION, HIGHEST_SATURATION))
    return np.asarray((saturation > threshold) & bright)


def _dark(highest: np.ndarray) -> np.ndarray:
    """Find what is too dark for tissue, (h, w) bool; of areas of it also their blurred edges, four pixels wide."""
    from PIL import Image, ImageFilter

    dark = highest < DARKEST_TISSUE
    if not dark.any():
        return dark
    areas = Image.fromarray(dark.astype(np.uint8)).filter(ImageFilter.MinFilter(5)).filter(ImageFilter.MaxFilter(13))
    return np.asarray(dark | (np.asarray(areas) > 0))


def _blur(thumbnail: np.ndarray) -> np.ndarray:
    """Smooth over about two pixels: the noise of glass and the holes between fibres are not objects."""
    from PIL import Image, ImageFilter

    return np.asarray(Image.fromarray(thumbnail).filter(ImageFilter.GaussianBlur(2)))


def otsu(values: np.ndarray, bins: int = 256) -> float:
    """Find the threshold in 0..1 that splits `values` (0..1) with most between-class variance (Otsu 1979)."""
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


def box_sums(
    mask: np.ndarray, top: np.ndarray, bottom: np.ndarray, left: np.ndarray, right: np.ndarray, step: int = 1
) -> np.ndarray:
    """Count the True cells in boxes [top, bottom) x [left, right) of a mask, by a summed-area table (Crow 1984).

    Args:
        mask: (h, w) bool.
        top: first rows, 0..h.
        bottom: last rows and one, `top` + a multiple of `step`.
        left: first columns, 0..w.
        right: last columns and one, `left` + a multiple of `step`.
        step: count only every step-th row and column of a box, its first among them.

    Returns:
        int64 counts, of the shape to which the four arrays broadcast: (n,) for n boxes, or (R, C) for
        (R, 1) rows and (C,) columns.
    """
    table = np.pad(mask, ((step, -mask.shape[0] % step), (step, -mask.shape[1] % step))).astype(np.int64)
    height, width = table.shape
    table = table.reshape(height // step, step, width).cumsum(0).reshape(height, width // step, step).cumsum(1)
    table = table.reshape(height, width)  # at [row + step, column + step]: the cell and those before it
    total: np.ndarray = table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
    return total


def box_fractions(
    mask: np.ndarray, top: np.ndarray, bottom: np.ndarray, left: np.ndarray, right: np.ndarray
) -> np.ndarray:
    """Return the part of boxes, 0..1, that a mask covers; see box_sums."""
    fractions: np.ndarray = box_sums(mask, top, bottom, left, right) / ((bottom - top) * (right - left))
    return fractions


def sliding_sums(mask: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """Count the True cells of (R, C) bool in each rectangle of rows x cols: (R - rows + 1, C - cols + 1) int64."""
    top, left = (np.arange(size - side + 1) for size, side in zip(mask.shape, (rows, cols), strict=True))
    return box_sums(mask, top[:, None], top[:, None] + rows, left, left + cols)


def nearest_cells(start: np.ndarray, stop: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Round extents to the cells [first, last) of a mask's side of `count`: at least one, and none outside."""
    first = np.minimum(np.round(start).astype(int), count - 1)
    return first, np.clip(np.round(stop).astype(int), first + 1, count)
