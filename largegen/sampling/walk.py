"""One step of a canvas, walked from its first row to its last: windows, their mean, the scheduler's step [L, sec. 3].

A row is finished once no later window of the step touches it. So what is held beside the canvas is a few bands of rows,
whatever its height.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from largegen.errors import LargegenError
from largegen.sampling.denoise import Correct, CorrectOfStep, WindowBatches, is_by_rows
from largegen.sampling.exchange import exchange
from largegen.sampling.rows import CANVAS, Rows, runs
from largegen.sampling.schedulers import RowScheduler, added_noise, clean_of, eps_of
from largegen.sampling.strips import Message, StepShare, Strips
from largegen.sampling.sums import RollingSums, RowSums
from largegen.sampling.windows import Place, stretches

if TYPE_CHECKING:
    from accelerate import PartialState

BAND_VALUES = 2**20  # latents' values that are finished at once: 4 MB; a smaller canvas is one band


@dataclass(frozen=True)
class Background:
    """The part of a canvas that needs no denoiser."""

    mask: np.ndarray  # (H, W) bool, True for background: windows of nothing else are not denoised
    latent: Tensor | None = None  # (C,): what the latents that no other window covers end as; None: zeros


class CanvasWalk:
    """Takes the steps of a canvas, or of one strip of it.

    Args:
        predict: the predicted noise of windows.
        scheduler: of the steps.
        strips: of the canvas, and which of them is this process'.
        rows: of this strip, with the canvas.
        eta: DDIM's added noise, 0 to 1.
        background: what is not denoised.
        correct: is given the predicted clean image (1, C, H, W) and returns what to take for it. One that is not
            `by_rows` (see CorrectRows) needs the whole canvas in memory, and one process.
        correct_steps: at how many of the steps, the first ones; None: at all.
        processes: accelerate's, one for each strip; None for one alone.
    """

    def __init__(
        self,
        predict: WindowBatches,
        scheduler: RowScheduler,
        strips: Strips,
        rows: Rows,
        *,
        eta: float = 0.0,
        background: Background | None = None,
        correct: Correct | None = None,
        correct_steps: int | None = None,
        processes: "PartialState | None" = None,
    ) -> None:
        self.predict, self.scheduler, self.strips, self.rows = predict, scheduler, strips, rows
        self.eta, self.background, self.processes = eta, background, processes
        self.correct, self.correct_steps = correct, correct_steps
        self.plan = strips.plan
        self.band = max(1, BAND_VALUES // (self.plan.shape[0] * self.plan.around[1]))  # rows

    @torch.no_grad()
    def step(self, step: int, done: int = 0, on_rows: Callable[[int], object] = lambda bottom: None) -> None:
        """Take a step: read the present generation of the rows, write the next one, and turn.

        Args:
            step: from 0.
            done: rows before this one are written already, but for those that windows of others touch, too.
            on_rows: is told the same after each band; with one process of all rows.

        Raises:
            LargegenError: where the denoiser gives NaN or infinite values, or another process has ended.
        """
        share, weight = self.strips.share(step), self.plan.weight(step).to(self.rows.device)
        height = self.plan.around[0]
        correct = self._correct_at(step)
        band = height if correct and not is_by_rows(correct) else self.band
        alone, later = share.alone, share.later
        # Rows from here on may be written last: what one process reports is true for any number of them.
        known = int(np.flatnonzero([*later, True])[0]) if self.strips.world == 1 else height
        whole = self.strips.world == 1 and done == 0 and band >= height
        if whole:  # one band, in which the ring is closed at once
            alone, later = np.ones(height, bool), np.zeros(height, bool)
        first, last = self.strips.own
        rows = max(first, done), max(last, done)
        at_once = band + self.plan.window[0]
        rolling = RollingSums(rows, later, self.plan.shape[0], self.plan.around, at_once, self.rows.device)
        waiting: list[tuple[Place, Tensor]] = []

        def finish_before(row: int, least: int) -> None:
            row = min(row, last)
            while row - rolling.top >= least:
                top, bottom = rolling.top, min(row, rolling.top + band)
                total, count = rolling.take(bottom)
                for start, end in runs(alone[top:bottom]):
                    self._finish(step, top + start, total[:, start:end], count[start:end])
                if not whole:
                    on_rows(min(bottom, known))

        for (top, left), window in self._predicted(step, share, done):
            if not whole:
                finish_before(top, band)
            if later[np.arange(top, top + len(weight)) % height].any():
                waiting.append(((top, left), window))
            rolling.add((top, left), window, weight)
        finish_before(last, 1)
        self._close(step, share, later, waiting, weight)
        self.rows.turn()
        self.scheduler.turn()

    def _correct_at(self, step: int) -> Correct | None:
        correct = self.correct if self.correct_steps is None or step < self.correct_steps else None
        return correct.at(step) if isinstance(correct, CorrectOfStep) else correct

    def _predicted(self, step: int, share: StepShare, done: int) -> Iterator[tuple[Place, Tensor]]:
        """Predict the windows of this process, in whole batches, but for those of which all rows are written."""
        left = share.later | (np.arange(self.plan.around[0]) >= done)  # rows that are not
        tops = {top for batch in share.batches for top, _ in batch}
        needed = {top for top in tops if left[np.arange(top, top + self.plan.window[0]) % len(left)].any()}
        batches = [batch for batch in share.batches if any(top in needed for top, _ in batch)]
        cutter = _Cutter(self.plan.window[0], self.plan.around, self._source(share))
        window = self.plan.window[1]
        timestep = self.scheduler.scheduler.timesteps[step]
        return self.predict(batches, lambda place: cutter.cut(place, window), timestep)

    def _source(self, share: StepShare) -> Callable[[int, int], Tensor]:
        """Fetch the halo, and return what gives rows (C, n, W) of the canvas, of this strip or of the halo."""
        rank, channels, width = self.strips.rank, self.plan.shape[0], self.plan.around[1]
        (first, last), rows = self.strips.own, self.rows
        coming = [message for message in share.halos if message.target == rank]
        found = exchange(
            self.processes,
            [(m.target, self._at(m.rows)) for m in share.halos if m.source == rank],
            [(m.source, (channels, len(m.rows), width)) for m in coming],
        )
        halo = {
            int(row): rows_found[:, i].to(rows.device)
            for message, rows_found in zip(coming, found, strict=True)
            for i, row in enumerate(message.rows)
        }

        def between(top: int, bottom: int) -> Tensor:
            if first <= top and bottom <= last:
                return rows.read(CANVAS, top, bottom)
            inside = max(top, first), min(bottom, last)
            parts = [halo[row][:, None] for row in range(top, min(bottom, first))]
            parts += [rows.read(CANVAS, *inside)] if inside[0] < inside[1] else []
            parts += [halo[row][:, None] for row in range(max(top, last), bottom)]
            return torch.cat(parts, 1)

        return between

    def _at(self, numbers: np.ndarray) -> Tensor:
        """Read rows (C, n, W) of the canvas by their numbers."""
        mask = np.zeros(self.plan.around[0], bool)
        mask[numbers] = True
        return torch.cat([self.rows.read(CANVAS, start, end) for start, end in runs(mask)], 1)

    def _close(
        self, step: int, share: StepShare, later: np.ndarray, waiting: list[tuple[Place, Tensor]], weight: Tensor
    ) -> None:
        """Finish the rows that other windows, of other processes or at the ring's other end, touch before or after."""
        rank, channels, around, device = self.strips.rank, self.plan.shape[0], self.plan.around, self.rows.device
        sums = RowSums(np.flatnonzero(later), channels, around, device)

        def exchange_sums(sent: list[Message], received: list[Message]) -> list[tuple[np.ndarray, Tensor, Tensor]]:
            mine, coming = [m for m in sent if m.source == rank], [m for m in received if m.target == rank]
            found = exchange(
                self.processes,
                [(m.target, sums.packed(m.rows)) for m in mine],
                [(m.source, (channels + 1, len(m.rows), around[1])) for m in coming],
            )
            return [(m.rows, one[:-1].to(device), one[-1].to(device)) for m, one in zip(coming, found, strict=True)]

        of_others = np.zeros(around[0], bool)  # rows that others have touched before
        for message in (*share.carries, *share.late_carries):
            if message.target == rank:
                of_others[message.rows] = True
        self._add(sums, later & ~of_others, waiting, weight)
        for rows, total, count in exchange_sums(share.carries, share.carries):
            sums.put(rows, total, count)
        for rows, total, count in exchange_sums([], share.late_carries):
            sums.put(rows, total, count)
        self._add(sums, later & of_others, waiting, weight)
        exchange_sums(share.late_carries, [])
        for rows, total, count in exchange_sums(share.finals, share.finals):
            self._finish_rows(step, rows, total, count)
        gone = np.zeros(around[0], bool)  # rows that are finished elsewhere, or have been
        for message in (*(m for m in (*share.carries, *share.late_carries) if m.source == rank), *share.finals):
            gone[message.rows] = True
        mine = np.flatnonzero(later & ~gone & (self.strips.owner == rank))
        self._finish_rows(step, mine, *sums.part(mine))

    def _add(self, sums: RowSums, mask: np.ndarray, windows: list[tuple[Place, Tensor]], weight: Tensor) -> None:
        """Add windows to those of the sums' rows that are in a mask (H',)."""
        part = RowSums(np.flatnonzero(mask), self.plan.shape[0], self.plan.around, self.rows.device)
        part.put(part.rows, *sums.part(part.rows))
        for place, window in windows:
            part.add(place, window, weight)
        sums.put(part.rows, part.total, part.count)

    def _finish_rows(self, step: int, rows: np.ndarray, total: Tensor, count: Tensor) -> None:
        """Finish rows that need not lie together, given by their numbers."""
        for start, end in _together(rows):
            self._finish(step, int(rows[start]), total[:, start:end], count[start:end])

    def _finish(self, step: int, top: int, total: Tensor, count: Tensor) -> None:
        """Take the step on rows from `top` on, given the sums of their windows (C, n, W) and weights (n, W)."""
        bottom = top + len(count)
        scheduler = self.scheduler.scheduler
        timestep = scheduler.timesteps[step]
        noisy = self.rows.read(CANVAS, top, bottom)[None]
        eps = (total / torch.where(count > 0, count, 1))[None]
        if self.background is not None:  # noise around its latent, which is then what remains of it
            latent = self.background.latent
            clean = 0 if latent is None else latent.to(noisy)[:, None, None]
            eps = torch.where(count > 0, eps, eps_of(clean, noisy, scheduler, timestep))
        _, height, width = self.plan.shape
        if (correct := self._correct_at(step)) and top < height:
            inside = (..., slice(height - top), slice(width))
            noisy_inside = noisy[inside]
            clean = clean_of(eps[inside], noisy_inside, scheduler, timestep)
            better = correct.rows(top, clean) if is_by_rows(correct) else correct(clean)
            eps[inside] = eps_of(better, noisy_inside, scheduler, timestep)
        memory = {name: self.rows.read(name, top, bottom)[None] for name in self.rows.fields - {CANVAS}}
        added = added_noise(scheduler, self.eta, lambda: self.plan.noise(step, top, bottom).to(noisy.device))
        canvas, memory = self.scheduler.step(eps, timestep, noisy, memory, **added)
        check_finite(canvas, step + 1, self.plan.steps)
        for name, value in {CANVAS: canvas, **memory}.items():
            self.rows.write(name, top, value[0])


class _Cutter:
    """Cuts windows out of rows, which are read once for all windows that begin at the same row."""

    def __init__(self, height: int, around: tuple[int, int], between: Callable[[int, int], Tensor]) -> None:
        self.height, self.around, self.between = height, around, between
        self._top: int | None = None
        self._band = torch.empty(0)

    def cut(self, place: Place, width: int) -> Tensor:
        """Cut out a window (C, height, width); it may continue at the canvas' other edge."""
        top, left = place
        if top != self._top:
            parts = stretches(top, self.height, self.around[0])
            self._band = _joined([self.between(row, row + count) for _, row, count in parts], 1)
            self._top = top
        return _joined([self._band[:, :, x : x + n] for _, x, n in stretches(left, width, self.around[1])], 2)


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _together(rows: np.ndarray) -> Iterator[tuple[int, int]]:
    """Find the stretches of ascending row numbers without a gap: (start, end) of their indices."""
    edges = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1), len(rows)] if len(rows) else []
    yield from ((int(start), int(end)) for start, end in pairwise(edges))


def check_finite(latents: Tensor, step: int, steps: int) -> None:
    """Raise LargegenError where latents are NaN or infinite after `step` of `steps` steps."""
    if not latents.isfinite().all():
        raise LargegenError(f"step {step} of {steps} gave NaN or infinite latents; try `precision` fp32")
