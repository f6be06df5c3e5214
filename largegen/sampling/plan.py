"""The plan of a canvas: its size, its noise, and the windows that cover it at each step."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from largegen.sampling.noise import noise
from largegen.sampling.settings import Sampling
from largegen.sampling.windows import Place, StepWindows, plan_windows


@dataclass(frozen=True)
class CanvasPlan:
    """A canvas, its noise, and the windows that cover it at each step. All lengths are in latents."""

    shape: tuple[int, int, int]  # (C, H, W) of the image's latents
    around: tuple[int, int]  # (H', W') of the canvas: larger than the image where shifted windows need a ring
    window: tuple[int, int]  # (h, w) of a window, cut to the canvas
    places: StepWindows  # the windows of each step
    blended: bool  # whether the last step's windows are blended, because no later step would hide where they meet
    seed: int  # of the noise
    origin: Place  # (row, column) of the canvas in the noise field
    shared: int = 0  # latents that overlapping windows share, over which their weights rise linearly; 0: they do not

    @property
    def steps(self) -> int:
        """Number of steps of the scheduler."""
        return len(self.places)

    @property
    def inside(self) -> tuple[object, ...]:
        """The index of the image's latents on the canvas."""
        return (..., slice(self.shape[1]), slice(self.shape[2]))

    def noise(self, step: int, top: int = 0, bottom: int | None = None) -> Tensor:
        """Draw the noise of one step at some rows, (1, C, rows, W') float32 on the CPU: see `noise.noise`."""
        bottom = self.around[0] if bottom is None else bottom
        row, col = self.origin
        return noise(self.seed, step, row + top, col, bottom - top, self.around[1], self.shape[0])

    def weight(self, step: int) -> Tensor:
        """Compute the weights (h, w), positive, of a window's latents in the mean over windows at one step."""
        if self.blended and step == self.steps - 1:
            return _taper(self.window, self.around)
        if self.shared:
            return _ramp(self.window, self.around, self.shared)
        return torch.ones(self.window)


def plan_canvas(
    shape: tuple[int, int, int],
    sampling: Sampling,
    window: int,
    origin: Place = (0, 0),
    background: np.ndarray | None = None,
) -> CanvasPlan:
    """Lay windows over a canvas.

    Args:
        shape: (C, H, W) of the image's latents.
        sampling: as `generate.resolve_defaults` gives it.
        window: side of the denoiser's window, in latents.
        origin: (row, column) of the canvas in the noise field.
        background: (H, W) bool, True where nothing needs to be denoised.

    Raises:
        InputError: for a stride that leaves gaps.
    """
    _, height, width = shape
    s = sampling
    places, around = plan_windows(s.windows, height, width, window, s.stride, s.seed, s.steps, background)
    size = min(window, height), min(window, width)
    shared = window - s.stride if s.distilled and s.windows == "overlap" else 0  # few steps: few windows are averaged
    return CanvasPlan(shape, around, size, places, s.windows == "shift", s.seed, origin, shared)


def _taper(size: tuple[int, int], around: tuple[int, int]) -> Tensor:
    """Compute weights (h, w) that fall to nothing at a window's border where it has neighbours.

    Laid every half window, the windows' weights add up to one.
    """
    rows, cols = (
        torch.sin(torch.pi * (torch.arange(side) + 0.5) / side).square() if ring > side else torch.ones(side)
        for side, ring in zip(size, around, strict=True)
    )
    return rows[:, None] * cols


def _ramp(size: tuple[int, int], around: tuple[int, int], shared: int) -> Tensor:
    """Compute weights (h, w) that rise linearly from a window's border where it has neighbours."""
    rows, cols = (
        ((torch.arange(side).minimum(torch.arange(side).flip(0)) + 0.5) / shared).clamp(max=1)
        if length > side
        else torch.ones(side)
        for side, length in zip(size, around, strict=True)
    )
    return rows[:, None] * cols
