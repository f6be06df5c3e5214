"""Whether a page of a slide is a level of its pyramid: whether it shows the same."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from largegen.errors import UnreadablePixels

CELLS = 6  # along each side, in whose middles levels are compared: enough where they are not plainly alike
FEW_CELLS = 9  # enough where they are
SEEN_PX = 512  # side of a level that is read whole to see where it is worth looking
SPOT_PX = 16  # of the smaller level
MOST_READ_PX = 512  # side of what is read of the larger level for a spot
MOST_APART = 12.0  # grey levels of 255 between means of the spots' quarters: JPEG and filters make up to 5
PLAINLY_ALIKE, LEAST_ALIKE = 0.98, 0.85  # their correlation
FLAT = 4.0  # grey levels: where the means spread less, a correlation says nothing


class HasLevels(Protocol):
    """What is asked of a reader, see readers.py."""

    levels: list[tuple[int, int]]

    def read(self, level: int, x: int, y: int, width: int, height: int) -> tuple[np.ndarray, float, float]:
        """Read a rectangle inside a level."""


def telling_cells(reader: HasLevels) -> list[tuple[int, int]]:
    """List the cells (row, column) of CELLS x CELLS, first those that show most contrast in the smallest level."""
    cells = [(row, column) for row in range(CELLS) for column in range(CELLS)]
    all_over = sorted(cells, key=lambda cell: (cell[0] % 2 + cell[1] % 2, cell))
    width, height = reader.levels[-1]
    if max(width, height) > SEEN_PX or min(width, height) < CELLS:
        return all_over
    try:
        pixels, _, _ = reader.read(len(reader.levels) - 1, 0, 0, width, height)
    except UnreadablePixels:
        return all_over
    rows, columns = (np.arange(CELLS + 1) * size // CELLS for size in (height, width))
    contrast = {(r, c): pixels[rows[r] : rows[r + 1], columns[c] : columns[c + 1]].std() for r, c in cells}
    return sorted(cells, key=lambda cell: -contrast[cell])


def shows_the_same(reader: HasLevels, larger: int, smaller: int, cells: Sequence[tuple[int, int]]) -> bool:
    """Compare two levels in the middles of `cells`, by the means of the spots' quarters: in a few, else in all.

    Damage is left to be found by who reads it.
    """
    try:
        few = _compare(reader, larger, smaller, cells[:FEW_CELLS], PLAINLY_ALIKE)
        return few or _compare(reader, larger, smaller, cells, LEAST_ALIKE, one_flat=True)
    except UnreadablePixels:
        return True


def _compare(
    reader: HasLevels, larger: int, smaller: int, cells: Sequence[tuple[int, int]], least: float, one_flat: bool = False
) -> bool:
    """Compare spots of two levels; both may be without contrast, with `one_flat` also one of them."""
    full, part = reader.levels[larger], reader.levels[smaller]
    scale = [whole / size for whole, size in zip(full, part, strict=True)]
    side = max(2, min(SPOT_PX, int(MOST_READ_PX / max(scale)), *part) // 2 * 2)
    fine, coarse = [], []
    for row, column in cells:
        left, top = (int((i + 0.5) / CELLS * (size - side)) for i, size in zip((column, row), part, strict=True))
        x, y = (round(start * ratio) for start, ratio in zip((left, top), scale, strict=True))
        width, height = (
            max(2, min(round(side * ratio), whole - start))
            for ratio, whole, start in zip(scale, full, (x, y), strict=True)
        )
        fine.append(_quarters(reader.read(larger, x, y, width, height)[0]))
        coarse.append(_quarters(reader.read(smaller, left, top, side, side)[0]))
    one, other = np.stack(fine), np.stack(coarse)
    if np.abs(one - other).mean() > MOST_APART:
        return False
    if min(one.std(), other.std()) < FLAT:
        return one_flat or max(one.std(), other.std()) < FLAT
    return bool(np.corrcoef(one.ravel(), other.ravel())[0, 1] > least)


def _quarters(pixels: np.ndarray) -> np.ndarray:
    """(h, w, bands) => (2, 2, bands): the means of its quarters, 0 to 255."""
    rows, columns = (size // 2 for size in pixels.shape[:2])
    halves = (slice(None, rows), slice(rows, None)), (slice(None, columns), slice(columns, None))
    means = [[pixels[down, across].mean(axis=(0, 1)) for across in halves[1]] for down in halves[0]]
    return np.array(means) * (255 / np.iinfo(pixels.dtype).max)
