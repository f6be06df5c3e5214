"""Which windows cover a canvas: overlapping ones, or ones side by side on a grid that moves at every step.

All lengths are in latents; a place is the (top, left) corner of a window on the canvas. A canvas that is no
longer than a window in one direction has a single window there, which is then cut to the canvas.
"""

import numpy as np

from largegen.errors import InputError

Place = tuple[int, int]


def axis_starts(size: int, window: int, stride: int) -> list[int]:
    """Starts of windows that cover 0..size in steps of `stride`; the last one is clamped [L, sec. 3].

    Raises InputError for a stride that leaves gaps (more than `window`) or stands still (less than 1).
    """
    if not 1 <= stride <= window:
        raise InputError(f"--stride {stride}: must be between 1 and the window's {window} latents")
    last = max(size - window, 0)
    return [*range(0, last, stride), last]


def overlap_windows(height: int, width: int, window: int, stride: int) -> list[Place]:
    """Windows every `stride` latents, the same at every step, in row-major order [L, sec. 3]."""
    tops, lefts = axis_starts(height, window, stride), axis_starts(width, window, stride)
    return [(top, left) for top in tops for left in lefts]


def shift_windows(height: int, width: int, window: int, seed: int, step: int) -> list[Place]:
    """Windows side by side on a grid moved at random, in row-major order; those that stick out are clamped.

    The move depends on (seed, step) only. A clamped window lies over a part of its neighbour.
    """
    offsets = np.random.SeedSequence((seed % 2**64, step)).generate_state(2) % window
    tops, lefts = (
        sorted({min(max(start, 0), max(size - window, 0)) for start in range(-int(offset), size, window)})
        for size, offset in zip((height, width), offsets, strict=True)
    )
    return [(top, left) for top in tops for left in lefts]
