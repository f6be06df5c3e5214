"""Which windows cover a canvas: overlapping ones, or ones side by side on a grid that moves at every step.

All lengths are in latents; a place is the (top, left) corner of a window on the canvas. A canvas that is no
longer than a window in one direction has a single window there, which is then cut to the canvas.

Shifted windows need a canvas that has no border, or the windows at the border would stay where they are and leave a
seam. So it continues for a window's length past its right and lower edge, and there joins its other edge: a ring.
"""

import numpy as np

from largegen.errors import InputError

Place = tuple[int, int]


def axis_starts(size: int, window: int, stride: int) -> list[int]:
    """List the starts of windows that cover 0..size in steps of `stride`; the last one is clamped [L, sec. 3].

    Raises:
        InputError: for a stride that leaves gaps (more than `window`) or stands still (less than 1).
    """
    if not 1 <= stride <= window:
        raise InputError(f"`stride` {stride}: must be between 1 and the window's {window} latents")
    last = max(size - window, 0)
    return [*range(0, last, stride), last]


def overlap_windows(height: int, width: int, window: int, stride: int) -> list[Place]:
    """Lay windows every `stride` latents, the same at every step, in row-major order [L, sec. 3]."""
    tops, lefts = axis_starts(height, window, stride), axis_starts(width, window, stride)
    return [(top, left) for top in tops for left in lefts]


def ring(size: int, window: int) -> int:
    """Return the length of a ring: a multiple of the window, and long enough that no window lies on both edges.

    It is `size` itself where one window covers it.
    """
    return size if size <= window else -(-(size + window - 1) // window) * window


def shift_windows(height: int, width: int, window: int, seed: int, step: int, stride: int | None = None) -> list[Place]:
    """Lay windows side by side around the ring, moved at random, in row-major order.

    These are SpotDiffusion's, without a border. The move depends on (seed, step) only. Every latent of the ring lies in
    one window, or in as many as a `stride` that divides the window makes. A window that begins past the canvas counts
    as one before it: its place is negative.
    """
    stride = stride or window
    offsets = np.random.SeedSequence((seed % 2**64, step)).generate_state(2) % window
    tops, lefts = (
        sorted(start - (length if start >= size else 0) for start in range(int(offset), int(offset) + length, stride))
        if (length := ring(size, window)) > window
        else [0]
        for size, offset in zip((height, width), offsets, strict=True)
    )
    return [(top, left) for top in tops for left in lefts]


def span(place: Place, size: tuple[int, int], around: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Index a window of `size` on a canvas of `around`: (rows, columns); it may continue at the other edge."""
    (top, left), (height, width) = place, size
    return (np.arange(top, top + height) % around[0])[:, None], np.arange(left, left + width) % around[1]


def without_background(
    places: list[Place], window: int, around: tuple[int, int], skip: np.ndarray | None
) -> list[Place]:
    """Drop the windows that hold nothing but background.

    Args:
        places: of the windows.
        window: side of a window.
        around: (height, width) of the canvas; what is beyond `skip` counts as background.
        skip: (height, width) bool, True for background.
    """
    if skip is None:
        return places
    size = tuple(min(window, side) for side in skip.shape)
    padding = [(0, ring - side) for ring, side in zip(around, skip.shape, strict=True)]
    skip = np.pad(np.asarray(skip, bool), padding, constant_values=True)
    return [place for place in places if not skip[span(place, size, around)].all()]


def plan_windows(
    windows: str, height: int, width: int, window: int, stride: int, seed: int, steps: int, skip: np.ndarray | None
) -> tuple[list[list[Place]], tuple[int, int]]:
    """Lay the windows of each step, without those of background.

    Args:
        windows: `overlap` every `stride`, the same at every step, or `shift`, moved by the seed. No later step would
            hide where the last ones meet, so they lie every half window.
        height: of the image, in latents.
        width: of the image, in latents.
        window: side of a window.
        stride: between overlapping windows.
        seed: of the shifts.
        steps: of the scheduler.
        skip: see `without_background`.

    Returns:
        The windows of each step, and the (height, width) of the canvas that they go around on.
    """
    if windows == "overlap":
        around = height, width
        return [
            without_background(overlap_windows(height, width, window, stride), window, around, skip)
        ] * steps, around
    around = ring(height, window), ring(width, window)
    half = window // 2 if window % 2 == 0 else window
    strides = [window] * (steps - 1) + [half]
    moved = (shift_windows(height, width, window, seed, step, stride) for step, stride in enumerate(strides))
    return [without_background(places, window, around, skip) for places in moved], around
