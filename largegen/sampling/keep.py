"""Latents that stay as they are while the rest of a canvas is sampled."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from largegen.sampling.rows import Latents, rows_of


@dataclass(frozen=True)
class Keep:
    """Takes known latents for the predicted clean ones, where they are to stay: a sampler's `correct`.

    A scheduler's step then puts them back at the noise level of the next one, with the noise that they had, so that
    windows see at every step what lies beside them; those that stay to the end are then what they were.
    """

    latents: Latents  # (1, C, H, W)
    until: Tensor  # (H, W) int: the step, from 0, from which on each is sampled like the rest; at 0 it never stays
    step: int = 0
    by_rows: ClassVar[bool] = True  # see CorrectRows

    def at(self, step: int) -> "Keep":
        """Return what keeps them at a step: see CorrectOfStep."""
        return Keep(self.latents, self.until, step)

    def __call__(self, clean: Tensor) -> Tensor:
        """Return predicted clean latents (1, C, H, W) with the known ones in their places."""
        return self.rows(0, clean)

    def rows(self, top: int, clean: Tensor) -> Tensor:
        """Do so for rows from `top` on, (1, C, n, W)."""
        bottom = top + clean.shape[-2]
        known = rows_of(self.latents, top, bottom).to(clean)
        return torch.where((self.until[top:bottom] > self.step).to(clean.device), known, clean)
