"""Windows summed at every row of a canvas that they touch, in their order."""

import numpy as np
import torch
from torch import Tensor

from largegen.sampling.windows import Place


class RowSums:
    """Sums of weighted windows, and of their weights, at some rows of a canvas.

    Windows are added in their order, so that the result depends on neither bands nor batches nor processes.

    Args:
        rows: the numbers of the rows, ascending.
        channels: of a window.
        around: (height, width) of the canvas.
        device: of the sums.
    """

    def __init__(
        self, rows: np.ndarray, channels: int, around: tuple[int, int], device: torch.device | str = "cpu"
    ) -> None:
        self.rows, self.around = rows, around
        self._at = np.full(around[0], -1)
        self._at[rows] = np.arange(len(rows))
        self.total = torch.zeros(channels, len(rows), around[1], device=device)
        self.count = torch.zeros(len(rows), around[1], device=device)

    def add(self, place: Place, window: Tensor, weight: Tensor) -> None:
        """Add the part of a window (C, h, w) that lies in these rows, by weights (h, w)."""
        (top, left), (height, width) = place, weight.shape
        at = self._at[np.arange(top, top + height) % self.around[0]]
        inside = at >= 0
        if not inside.any():
            return
        if not inside.all():
            window, weight, at = window[:, inside], weight[inside], at[inside]
        where = at[:, None], np.arange(left, left + width) % self.around[1]
        self.total[(slice(None), *where)] += window * weight
        self.count[where] += weight

    def part(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Take the sums (C, n, W) and weights (n, W) at some of the rows."""
        at = self._at[rows]
        return self.total[:, at], self.count[at]

    def packed(self, rows: np.ndarray) -> Tensor:
        """Take both together, (C + 1, n, W)."""
        total, count = self.part(rows)
        return torch.cat([total, count[None]])

    def put(self, rows: np.ndarray, total: Tensor, count: Tensor) -> None:
        """Set the sums and weights at some of the rows."""
        at = self._at[rows]
        self.total[:, at], self.count[at] = total, count


class RollingSums:
    """As RowSums, of rows that follow one another: those that are taken make room for later ones.

    Args:
        rows: the first row, and that after the last one that is ever asked for.
        left_out: (H',) bool, rows of the canvas at which nothing is summed.
        channels: of a window.
        around: (height, width) of the canvas.
        at_once: as many rows as are usually held, for which there is room from the start.
        device: of the sums.
    """

    def __init__(
        self,
        rows: tuple[int, int],
        left_out: np.ndarray,
        channels: int,
        around: tuple[int, int],
        at_once: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.top, self.bottom = rows
        self.left_out, self.at_once = left_out, at_once
        self.around = around
        self._total = torch.zeros(channels, 0, around[1], device=device)
        self._count = torch.zeros(0, around[1], device=device)

    def add(self, place: Place, window: Tensor, weight: Tensor) -> None:
        """Add the part of a window (C, h, w) that lies in rows from `top` on, by weights (h, w)."""
        (top, left), (height, width) = place, weight.shape
        rows = np.arange(top, top + height) % self.around[0]
        inside = (rows >= self.top) & (rows < self.bottom) & ~self.left_out[rows]
        if not inside.any():
            return
        if not inside.all():
            window, weight, rows = window[:, inside], weight[inside], rows[inside]
        self._grow(int(rows.max()) + 1)
        where = (rows - self.top)[:, None], np.arange(left, left + width) % self.around[1]
        self._total[(slice(None), *where)] += window * weight
        self._count[where] += weight

    def take(self, bottom: int) -> tuple[Tensor, Tensor]:
        """Take the sums (C, n, W) and weights (n, W) of the rows from `top` to `bottom`, which becomes `top`."""
        count = bottom - self.top
        self._grow(bottom)
        taken = self._total[:, :count], self._count[:count]
        self._total, self._count = self._total[:, count:].clone(), self._count[count:].clone()
        self.top = bottom
        return taken

    def _grow(self, bottom: int) -> None:
        """Make room for rows up to `bottom`."""
        room = bottom - self.top
        if room <= len(self._count):
            return
        room = min(max(room, self.at_once), self.bottom - self.top)
        total = self._total.new_zeros(self._total.shape[0], room, self.around[1])
        count = self._count.new_zeros(room, self.around[1])
        total[:, : len(self._count)], count[: len(self._count)] = self._total, self._count
        self._total, self._count = total, count
