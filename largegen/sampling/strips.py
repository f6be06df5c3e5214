"""Strips of a canvas: which rows and which windows each of several processes has, and what they tell one another.

A process keeps the rows of its strip. At each step it takes a share of the windows, in their order; for these it needs
rows of its neighbours' strips, and its sums of rows that later windows touch go to whoever has those. So only halos
travel, and the rows that the ring of shifted windows joins; and every sum is made in the order of the windows, which is
why the result is that of one process, bit for bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from largegen.sampling.plan import CanvasPlan
from largegen.sampling.rows import VALUE_BYTES
from largegen.sampling.windows import Place

STEPS_LOOKED_AT = 4  # of a plan, to weigh its rows by their windows and to count what is exchanged


@dataclass(frozen=True)
class Message:
    """Rows that go from one process to another."""

    source: int
    target: int
    rows: np.ndarray  # their numbers, ascending


@dataclass(frozen=True)
class StepShare:
    """What one process does of a step, and all messages of the step."""

    batches: list[list[Place]]  # windows of this process
    alone: np.ndarray  # (H',) bool: rows that it keeps and that no windows but its own touch, if any
    later: np.ndarray  # (H',) bool: rows that its windows touch, and whose sums have to wait for others
    halos: list[Message]  # rows of the canvas, before the windows
    carries: list[Message]  # sums that go on, of rows that no other process has touched before
    late_carries: list[Message]  # of those that others have: strips are lower than a window
    finals: list[Message]  # sums that are complete, to the rows' keepers


class Strips:
    """The rows of each process: strips with about as many windows.

    Args:
        plan: of the canvas.
        batch_size: windows at once; a process takes whole batches, so that these are the same for any number of them.
        rank: of this process.
        world: number of processes.
    """

    def __init__(self, plan: CanvasPlan, batch_size: int, rank: int = 0, world: int = 1) -> None:
        self.plan, self.batch_size, self.rank, self.world = plan, batch_size, rank, world
        self.bounds = _balanced(plan, world)
        self.owner = np.repeat(np.arange(world), np.diff(self.bounds))

    @property
    def own(self) -> tuple[int, int]:
        """The first row of this process, and that after its last one."""
        return int(self.bounds[self.rank]), int(self.bounds[self.rank + 1])

    def share(self, step: int) -> StepShare:
        """Divide a step."""
        places, height = self.plan.places[step], self.plan.around[0]
        batches = [places[start : start + self.batch_size] for start in range(0, len(places), self.batch_size)]
        ends = [round(part * len(batches) / self.world) for part in range(self.world + 1)]
        touched = np.zeros((self.world, height), bool)
        for process in range(self.world):
            for top in {top for batch in batches[ends[process] : ends[process + 1]] for top, _ in batch}:
                touched[process, np.arange(top, top + self.plan.window[0]) % height] = True
        own, mine = self.owner == self.rank, batches[ends[self.rank] : ends[self.rank + 1]]
        others = np.delete(touched, self.rank, 0).any(0)
        first = min((top for top, _ in places), default=0)
        around_the_ring = np.arange(height) >= height + min(first, 0)  # touched by the first windows and by the last
        later = touched[self.rank] & (others | ~own | around_the_ring)
        halos = [
            message
            for target in range(self.world)
            for message in _messages(self.owner, np.full(height, target), touched[target] & (self.owner != target))
        ]
        carries, late, before = [], [], np.full(height, -1)
        for process in range(self.world):
            target, first = np.full(height, process), touched[:process].sum(0) == 1
            carries += _messages(before, target, touched[process] & (before >= 0) & first)
            late += _messages(before, target, touched[process] & (before >= 0) & ~first)
            before[touched[process]] = process
        finals = _messages(before, self.owner, (before >= 0) & (before != self.owner))
        return StepShare(mine, own & ~others & ~later, later, halos, carries, late, finals)


def exchanged_bytes(plan: CanvasPlan, batch_size: int, world: int) -> int:
    """Count what all processes together send at a step: the mean of some steps. A scheduler's memory stays."""
    if world == 1:
        return 0
    strips = Strips(plan, batch_size, 0, world)
    steps = _some_steps(plan)
    channels, width = plan.shape[0], plan.around[1]
    values = 0
    for step in steps:
        share = strips.share(step)
        values += sum(len(message.rows) * channels for message in share.halos)
        values += sum(
            len(message.rows) * (channels + 1) for message in (*share.carries, *share.late_carries, *share.finals)
        )
    return round(values * width * VALUE_BYTES / len(steps))


def _some_steps(plan: CanvasPlan) -> Sequence[int]:
    return sorted({round(step) for step in np.linspace(0, plan.steps - 1, min(STEPS_LOOKED_AT, plan.steps))})


def _balanced(plan: CanvasPlan, world: int) -> np.ndarray:
    """Divide the rows, (world + 1,) bounds: the windows of some steps, in their order, in equal shares."""
    height = plan.around[0]
    if world == 1:
        return np.array([0, height])
    windows = np.full(height, 1e-6)  # so that rows of background are shared, too
    for step in _some_steps(plan):
        tops = np.array([top for top, _ in plan.places[step]], int)
        for top, count in zip(*np.unique(tops, return_counts=True), strict=True):
            windows[np.arange(top, top + plan.window[0]) % height] += count
    shares = windows.cumsum() / windows.sum()
    bounds = np.searchsorted(shares, np.arange(1, world) / world) + 1
    return np.array([0, *np.minimum(bounds, height), height])


def _messages(sources: np.ndarray, targets: np.ndarray, rows: np.ndarray) -> list[Message]:
    """Group rows, (H',) bool, by who sends and who receives them."""
    numbers = np.flatnonzero(rows)
    pairs = np.stack([sources[numbers], targets[numbers]], 1)
    return [
        Message(int(source), int(target), numbers[(pairs == (source, target)).all(1)])
        for source, target in np.unique(pairs, axis=0)
    ]
