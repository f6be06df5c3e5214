"""Whether a page of a slide is a level of its pyramid: whether it shows the same."""

from typing import Protocol

import numpy as np

from largegen.errors import UnreadablePixels

FEW_SPOTS, SPOTS = 3, 6  # along each side: enough where they are plainly alike, and where they are not
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


def shows_the_same(reader: HasLevels, larger: int, smaller: int) -> bool:
    """Compare spots of two levels, by the means of the spots' quarters; damage is left to be found by who reads it."""
    try:
        return _compare(reader, larger, smaller, FEW_SPOTS, PLAINLY_ALIKE) or _compare(reader, larger, smaller)
    except UnreadablePixels:
        return True


def _compare(reader: HasLevels, larger: int, smaller: int, spots: int = SPOTS, least: float | None = None) -> bool:
    """Compare spots x spots of them; where `least` is given, flat ones are not enough."""
    full, part = reader.levels[larger], reader.levels[smaller]
    scale = [whole / size for whole, size in zip(full, part, strict=True)]
    side = max(2, min(SPOT_PX, int(MOST_READ_PX / max(scale)), *part) // 2 * 2)
    fine, coarse = [], []
    for row in range(spots):
        for column in range(spots):
            left, top = (int((i + 0.5) / spots * (size - side)) for i, size in zip((column, row), part, strict=True))
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
        return least is None
    return bool(np.corrcoef(one.ravel(), other.ravel())[0, 1] > (least or LEAST_ALIKE))


def _quarters(pixels: np.ndarray) -> np.ndarray:
    """(h, w, bands) => (2, 2, bands): the means of its quarters, 0 to 255."""
    rows, columns = (size // 2 for size in pixels.shape[:2])
    halves = (slice(None, rows), slice(rows, None)), (slice(None, columns), slice(columns, None))
    means = [[pixels[down, across].mean(axis=(0, 1)) for across in halves[1]] for down in halves[0]]
    return np.array(means) * (255 / np.iinfo(pixels.dtype).max)
