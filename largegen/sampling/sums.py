"""Windows summed at every row of a canvas that they touch, in their order."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from largegen.sampling.rows import runs
from largegen.sampling.windows import Place, stretches


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
        for part, row, columns in _parts(place, weight.shape, self.around, self._at >= 0):
            where = slice(self._at[row], self._at[row] + part[0].stop - part[0].start), columns
            self.total[:, *where] += window[:, *part] * weight[part]
            self.count[where] += weight[part]

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
        self.around, self.at_once = around, at_once
        self._wanted = ~left_out & (np.arange(around[0]) < self.bottom)
        self._total = torch.zeros(channels, 0, around[1], device=device)
        self._count = torch.zeros(0, around[1], device=device)

    def add(self, place: Place, window: Tensor, weight: Tensor) -> None:
        """Add the part of a window (C, h, w) that lies in rows from `top` on, by weights (h, w)."""
        for part, row, columns in _parts(place, weight.shape, self.around, self._wanted, self.top):
            count = part[0].stop - part[0].start
            self._grow(row + count)
            where = slice(row - self.top, row - self.top + count), columns
            self._total[:, *where] += window[:, *part] * weight[part]
            self._count[where] += weight[part]

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


def _parts(
    place: Place, size: tuple[int, ...], around: tuple[int, int], wanted: np.ndarray, first: int = 0
) -> Iterator[tuple[tuple[slice, slice], int, slice]]:
    """Cut a window into rectangles without a gap on the canvas: no index of single places has to be made, or copied.

    Args:
        place: of the window.
        size: of the window.
        around: (height, width) of the canvas.
        wanted: (H',) bool, rows of the canvas that count.
        first: the first row that counts.

    Yields:
        Rows and columns of the window, the row on the canvas where they begin, and the columns there.
    """
    for down, top, height in stretches(place[0], size[0], around[0]):
        start = max(top, first)
        for row, end in runs(wanted[start : top + height], start):
            rows = slice(down + row - top, down + end - top)
            for right, left, width in stretches(place[1], size[1], around[1]):
                yield (rows, slice(right, right + width)), row, slice(left, left + width)
