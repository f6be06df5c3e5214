"""Where the pixels of an output lie on a slide and on the levels of its pyramid."""

import math

LANCZOS_SUPPORT = 3  # pixels that the filter sees to each side


def level_downsample(full: tuple[int, int], level: tuple[int, int]) -> tuple[float, float]:
    """Find the level-0 pixels per pixel of a level, (x, y): whole where the size differs from it by rounding only.

    Rounding leaves several whole numbers possible for a small level; a power of two is the likeliest.

    Args:
        full: (width, height) of level 0.
        level: (width, height) of the level.
    """
    ratio = full[0] / level[0]
    for whole in (2 ** max(0, round(math.log2(ratio))), round(ratio)):
        if all(abs(size / whole - part) <= 1 for size, part in zip(full, level, strict=True)):
            return float(whole), float(whole)
    return ratio, full[1] / level[1]


def inside(start: float, count: int, step: float, size: int) -> tuple[int, int]:
    """Find [first, stop) of `count` pixels of width `step` from `start` whose centres lie in [0, size)."""
    first = max(0, math.ceil(-start / step - 0.5))
    return first, max(first, min(count, math.ceil((size - start) / step - 0.5)))


def with_margin(start: float, count: int, scale: float) -> tuple[int, int]:
    """Find the whole pixels of a level that the filter sees for `count` pixels of `scale` of its own, from `start`."""
    margin = math.ceil(LANCZOS_SUPPORT * max(1.0, scale)) + 1
    return math.floor(start) - margin, math.ceil(start + count * scale) + margin


def thumbnail_size(full: tuple[int, int], max_px: int) -> tuple[int, int, float]:
    """Find width, height and downsample of a whole slide of size `full` whose longer side is `max_px` at most."""
    downsample = max(1.0, max(full) / max_px)
    return max(1, round(full[0] / downsample)), max(1, round(full[1] / downsample)), downsample
