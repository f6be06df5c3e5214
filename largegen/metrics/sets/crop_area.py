"""Where in an image its crops may lie: wherever there is tissue, or data."""

from dataclasses import dataclass

import numpy as np

from largegen.errors import SlideError
from largegen.metrics.sets.images import SetImage
from largegen.slides.tissue import tissue_mask

MIN_TISSUE = 0.5  # part of a crop; of a scene's, all of it must hold data
MASK_PX = 1024  # longer side of the thumbnail that tissue is looked for in


@dataclass(frozen=True, slots=True)
class CropArea:
    """Positions (px at the working resolution), in cells, free or not."""

    rows: np.ndarray  # (R, 2) int64: the first position of each row of cells, and how many there are
    cols: np.ndarray  # (C, 2) int64
    free: np.ndarray | None  # (R, C) bool as packed bits; None: all are
    total: int  # free positions
    share: float  # part of all positions that they are

    @classmethod
    def of(cls, rows: np.ndarray, cols: np.ndarray, free: np.ndarray | None = None) -> "CropArea":
        """Pack cells, see the fields; free: (R, C) bool, None for all."""
        packed = None if free is None else np.packbits(free)
        positions = np.outer(rows[:, 1], cols[:, 1])
        total = int(positions.sum() if free is None else positions[free].sum())
        return cls(rows, cols, packed, total, total / positions.sum())

    def at(self, picks: np.ndarray) -> np.ndarray:
        """Return (n, 2) int64: x, y of the free positions of these numbers, in 0..total - 1."""
        positions = np.outer(self.rows[:, 1], self.cols[:, 1]).ravel()
        if self.free is not None:
            positions *= np.unpackbits(self.free, count=len(positions))
        stops = positions.cumsum()
        cell = np.searchsorted(stops, picks, side="right")
        row, col = np.divmod(cell, len(self.cols))
        down, right = np.divmod(picks - stops[cell] + positions[cell], self.cols[col, 1])
        return np.column_stack([self.cols[col, 0] + right, self.rows[row, 0] + down])


def crop_area_of(image: SetImage, size: int, grid: bool) -> CropArea:
    """Find where crops of `size` px may begin in an image.

    Args:
        image: At the resolution at which it is compared.
        size: Side of a crop, px.
        grid: Whether crops lie side by side; otherwise anywhere.

    Raises:
        SlideError: The image is smaller than a crop, or cannot be read.
    """
    sides = (image.height, image.width)
    if min(sides) < size:
        at = "at this resolution, smaller than a crop"
        raise SlideError(f"{image.path}: {image.width}x{image.height} px {at} of {size} px")
    mask, needed = _mask(image) if image.tissue else (np.ones((1, 1), bool), 0.0)
    rows, cols = (
        _tiles(side, size) if grid else _cells(side, size, count) for side, count in zip(sides, mask.shape, strict=True)
    )
    if not image.tissue:
        return CropArea.of(rows, cols)
    (top, bottom), (left, right) = (
        _span(axis, side, size, count) for axis, side, count in zip((rows, cols), sides, mask.shape, strict=True)
    )
    integral = np.pad(mask.astype(np.int64), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    above, below = integral[top], integral[bottom]
    covered = below[:, right] - below[:, left] - above[:, right] + above[:, left]
    return CropArea.of(rows, cols, free=covered >= needed * np.outer(bottom - top, right - left))


def _mask(image: SetImage) -> tuple[np.ndarray, float]:
    """Find tissue or data, (h, w) bool, and the part of a crop that must be such."""
    with image.open() as slide:
        return tissue_mask(slide, max_px=MASK_PX), 1.0 if slide.kind == "scene" else MIN_TISSUE


def _tiles(side: int, size: int) -> np.ndarray:
    """Make cells of one position each, side by side along a side: (n, 2), see Region."""
    starts = np.arange(side // size) * size
    return np.column_stack([starts, np.ones_like(starts)])


def _cells(side: int, size: int, count: int) -> np.ndarray:
    """Divide all positions along a side into `count` cells of about the same number: (count, 2), see Region."""
    edges = np.minimum(-(-np.arange(count + 1) * side // count), side - size + 1)
    return np.column_stack([edges[:-1], np.diff(edges)])


def _span(axis: np.ndarray, side: int, size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the cells [a, b) of the mask's `count` along a side that crops beginning in a cell of `axis` may touch."""
    first = axis[:, 0] * count // side
    last = -(-(axis[:, 0] + np.maximum(axis[:, 1], 1) - 1 + size) * count // side)
    return first, np.clip(last, first + 1, count)
