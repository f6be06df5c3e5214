"""A canvas in memory, whose progress is saved as a whole from time to time."""

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from largegen.sampling.exchange import gather_rows
from largegen.sampling.noise import INITIAL
from largegen.sampling.plan import CanvasPlan
from largegen.sampling.resume import Checkpoint, ProgressSaver
from largegen.sampling.rows import CANVAS, Latents, MemoryRows, Rows, rows_of
from largegen.sampling.strips import Strips
from largegen.sampling.walk import BAND_VALUES

if TYPE_CHECKING:
    from accelerate import PartialState

log = logging.getLogger(__name__)

MAX_DEVICE_CANVAS_VALUES = 2**27  # a canvas of up to 512 MB lives on the device, a larger one on the host


class MemoryCanvas:
    """The rows of a canvas, or of this process' strip of it, in memory.

    Args:
        checkpoint: where the progress is saved; of one process only.
        settings: of the sampler, which must be the same for a run to resume.
        plan: of the canvas.
        batch_size: windows at once.
        device: of the canvas, if it is not too large.
        processes: accelerate's, if there are several.
    """

    def __init__(
        self,
        checkpoint: Checkpoint | None,
        settings: str,
        plan: CanvasPlan,
        batch_size: int,
        device: torch.device | str,
        processes: "PartialState | None" = None,
    ) -> None:
        self.plan, self.processes, self.batch_size = plan, processes, batch_size
        values = plan.shape[0] * plan.around[0] * plan.around[1]
        self.device = device if values <= MAX_DEVICE_CANVAS_VALUES else "cpu"
        self.rows = MemoryRows((0, plan.around[0]), self.device)
        self.rows_done = 0  # of the first step to come
        self.path = checkpoint and checkpoint.path
        self._saver = ProgressSaver(checkpoint, settings) if checkpoint else None
        self._saved = self._saver.load() if self._saver else None
        self.numbers: dict[str, Any] = {}  # that the scheduler remembers
        if self._saved:
            self.batch_size, self.numbers = self._saved.batch_size, self._saved.numbers

    def begin(self, strips: Strips, start: int, latents: Latents | None) -> int:
        """Fill the rows, and return how many steps are done.

        Args:
            strips: which rows are of this process.
            start: steps that count as done before the first.
            latents: (1, C, H, W) to start from in place of noise.
        """
        self.strips, self.batch_size = strips, strips.batch_size
        self.rows = MemoryRows(strips.own, self.device)
        if self._saved is None:
            write_start(self.rows, strips, latents)
            return start
        for name, value in {CANVAS: self._saved.canvas, **self._saved.row_memory}.items():
            self.rows.write(name, 0, value[0])
        self.rows.turn()
        step, self._saved = self._saved.step, None
        log.info("%s: resuming after step %d of %d", self.path, step, self.plan.steps)
        return step

    def rows_finished(self, rows: int) -> None:
        """Take note of nothing: memory is lost with its process."""

    def step_finished(self, step: int, numbers: dict[str, Any]) -> None:
        """Save the progress, if it is time."""
        if self._saver is not None:
            whole = {name: self.rows.read(name, 0, self.plan.around[0])[None] for name in self.rows.fields}
            canvas = whole.pop(CANVAS)
            self._saver.save(step, self.batch_size, canvas, whole | numbers, last=step == self.plan.steps)

    def saved_on_interrupt(self) -> AbstractContextManager[None]:
        """Save the last whole step where the steps are interrupted."""
        return self._saver.saved_on_interrupt() if self._saver else nullcontext()

    def result(self) -> Tensor:
        """Return the image's latents, (1, C, H, W) on the CPU, in all processes."""
        own = self.rows.read(CANVAS, *self.strips.own)
        whole = gather_rows(self.processes, own, self.strips.bounds) if self.processes else own
        return whole[None][self.plan.inside].cpu()


def write_start(rows: Rows, strips: Strips, latents: Latents | None) -> None:
    """Write the noise, or the latents (1, C, H, W), that a strip starts from, in bands."""
    plan = strips.plan
    _, height, width = plan.shape
    (top, last), band = strips.own, max(1, BAND_VALUES // (plan.shape[0] * plan.around[1]))
    while top < last:
        bottom = min(top + band, last)
        start = plan.noise(INITIAL, top, bottom)[0]
        if latents is not None and top < height:
            start[:, : height - top, :width] = rows_of(latents, top, min(bottom, height))[0].detach()
        rows.write(CANVAS, top, start)
        top = bottom
    rows.turn()
