"""Which windows cover a canvas: overlapping ones, or ones side by side on a grid that moves at every step.

All lengths are in latents; a place is the (top, left) corner of a window on the canvas. A canvas that is no
longer than a window in one direction has a single window there, which is then cut to the canvas.

Shifted windows need a canvas that has no border, or the windows at the border would stay where they are and leave a
seam. So it continues for a window's length past its right and lower edge, and there joins its other edge: a ring.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import overload

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


def shift_windows(height: int, width: int, window: int, seed: int, step: int) -> list[Place]:
    """Lay windows side by side around the ring, moved at random, in row-major order.

    These are SpotDiffusion's, without a border. The move depends on (seed, step) only. Every latent of the ring lies in
    one window. A window that begins past the canvas counts as one before it: its place is negative.
    """
    offsets = np.random.SeedSequence((seed % 2**64, step)).generate_state(2) % window
    tops, lefts = (
        sorted(start - (length if start >= size else 0) for start in range(int(offset), int(offset) + length, window))
        if (length := ring(size, window)) > window
        else [0]
        for size, offset in zip((height, width), offsets, strict=True)
    )
    return [(top, left) for top in tops for left in lefts]


def stretches(start: int, length: int, around: int) -> Iterator[tuple[int, int, int]]:
    """Find where a side of a window lies on a ring: (offset in the window, place on the ring, length), one or two.

    start: on the ring, also negative; length: at most that of the ring, `around`.
    """
    start %= around
    first = min(length, around - start)
    yield 0, start, first
    if first < length:
        yield first, 0, length - first


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
    height, width = (min(window, side) for side in skip.shape)

    @lru_cache(maxsize=1)
    def tissue_before(top: int) -> np.ndarray:
        """Count the columns with tissue before each column, twice around the ring, for the windows that begin here."""
        rows = np.arange(top, top + height) % around[0]
        tissue = np.zeros(around[1], int)
        tissue[: skip.shape[1]] = ~skip[rows[rows < len(skip)]].all(0)
        return np.concatenate([[0], np.tile(tissue, 2).cumsum()])

    def needed(top: int, left: int) -> bool:
        count, start = tissue_before(top), left % around[1]
        return bool(count[start + width] > count[start])

    return [place for place in places if needed(*place)]


class StepWindows(Sequence[list[Place]]):
    """The windows of each step, laid when they are asked for: those of all steps would fill the memory.

    Args:
        steps: how many there are.
        lay: lays the windows of a step.
    """

    def __init__(self, steps: int, lay: Callable[[int], list[Place]]) -> None:
        self.steps = steps
        self._lay = lru_cache(maxsize=1)(lay)

    def __len__(self) -> int:
        return self.steps

    @overload
    def __getitem__(self, step: int) -> list[Place]: ...
    @overload
    def __getitem__(self, step: slice) -> list[list[Place]]: ...
    def __getitem__(self, step: int | slice) -> list[Place] | list[list[Place]]:
        """Return the windows of one step, or of several."""
        if isinstance(step, slice):
            return [self._lay(number) for number in range(self.steps)[step]]
        return self._lay(range(self.steps)[step])

    def __iter__(self) -> Iterator[list[Place]]:
        return map(self._lay, range(self.steps))


def plan_windows(
    windows: str, height: int, width: int, window: int, stride: int, seed: int, steps: int, skip: np.ndarray | None
) -> tuple[StepWindows, tuple[int, int]]:
    """Lay the windows of each step, without those of background.

    Args:
        windows: `overlap` every `stride`, the same at every step, or `shift`, moved by the seed. No later step would
            hide where the last ones meet, so these lie every half window, and need no ring.
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

        @lru_cache(maxsize=1)
        def same() -> list[Place]:
            return without_background(overlap_windows(height, width, window, stride), window, around, skip)

        return StepWindows(steps, lambda step: same()), around
    around = ring(height, window), ring(width, window)

    def moved(step: int) -> list[Place]:
        if step < steps - 1:
            places = shift_windows(height, width, window, seed, step)
        else:
            places = overlap_windows(height, width, window, max(1, window // 2))
        return without_background(places, window, around, skip)

    return StepWindows(steps, moved), around
