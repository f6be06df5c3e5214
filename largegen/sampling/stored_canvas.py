"""A canvas in a file, which is its own checkpoint: a kill at any moment loses a band of rows of each process at most.

Beside the file of rows lies a small one, at the checkpoint's path, that says which rows of it are finished. What a
killed process wrote, the system still has; what a machine that lost its power wrote is on the disk for certain only
where the file was synced. So both are noted, and the first counts on the same running machine alone.
"""

import json
import logging
import os
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from largegen.errors import LargegenError
from largegen.runtime.distributed import gather, run_on_main
from largegen.runtime.files import atomic, sync_folder
from largegen.runtime.lock import BOOT_ID
from largegen.sampling.exchange import peer_errors
from largegen.sampling.memory_canvas import write_start
from largegen.sampling.plan import CanvasPlan
from largegen.sampling.resume import Checkpoint, load_progress, part_path
from largegen.sampling.rows import CANVAS, FileRows, Latents, StoredLatents, file_bytes
from largegen.sampling.schedulers import RowScheduler, Scheduler
from largegen.sampling.strip_notes import StripNote, machine_digest, read_note, write_note
from largegen.sampling.strips import Strips

if TYPE_CHECKING:
    from accelerate import PartialState

log = logging.getLogger(__name__)

FORMAT = "largegen-canvas"
MAX_MEMORY_CANVAS_VALUES = 2**24  # a canvas of up to 64 MB lives in memory, a larger one in a file


@dataclass(frozen=True)
class StoredState:
    """What is finished of a stored canvas."""

    fingerprint: str
    mark: str  # of the file of rows
    batch_size: int  # windows at once
    step: int = -1  # steps done; -1: not even the noise that they start from
    rows: int = 0  # of the next step, from the top
    synced: int = 0  # of these, on the disk for certain
    machine: str = ""  # the running machine on which `rows` were written
    generation: int = 0  # the present one
    fields: list[str] = field(default_factory=list)  # that it has
    numbers: dict[str, Any] = field(default_factory=dict)  # that the scheduler remembers


def rows_path(path: Path) -> Path:
    """Name the file of rows that belongs to a checkpoint."""
    return part_path(path, "rows")


def is_stored(path: Path) -> bool:
    """Tell whether a checkpoint is that of a stored canvas."""
    return _read(path) is not None


def remove_stored(path: Path) -> None:
    """Delete a checkpoint and its file of rows, whichever of them is there."""
    path.unlink(missing_ok=True)
    rows_path(path).unlink(missing_ok=True)


def needs_file(plan: CanvasPlan) -> bool:
    """Tell whether a canvas is too large to be kept in memory."""
    return plan.shape[0] * plan.around[0] * plan.around[1] > MAX_MEMORY_CANVAS_VALUES


class StoredCanvas:
    """The file of rows of a canvas and the note of what is finished, of one process or several that share the file.

    Args:
        checkpoint: where, and for what.
        settings: of the sampler, which must be the same for a run to resume.
        plan: of the canvas.
        scheduler: of the steps.
        batch_size: windows at once.
        processes: accelerate's; their own machines must see the same folder.

    Raises:
        LargegenError: where a process does not see the file.
        OutputError: where the disk has no room for it.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        settings: str,
        plan: CanvasPlan,
        scheduler: Scheduler,
        batch_size: int,
        processes: "PartialState | None" = None,
    ) -> None:
        self.checkpoint, self.processes = checkpoint, processes
        self.fingerprint = json.dumps([settings, checkpoint.fingerprint])
        self.plan, self.shape = plan, (plan.shape[0], *plan.around)
        self.names = [CANVAS, *RowScheduler(scheduler).row_fields()]
        self.main = processes is None or processes.is_main_process
        self.path = rows_path(checkpoint.path)
        self.state = self._on_main(lambda: self._found() or self._new(batch_size))
        self.rows = self._open()
        self.rows.resume(self.state.generation, set(self.state.fields))
        self.batch_size, self.numbers, self.rows_done = self.state.batch_size, self.state.numbers, self.state.rows
        self._synced_at, self._synced = time.monotonic(), self.state.synced

    def _on_main(self, compute: Callable[[], StoredState]) -> StoredState:
        return compute() if self.processes is None else run_on_main(self.processes, compute)

    def _found(self) -> StoredState | None:
        """Read what an earlier run left, if it is of the same settings and whole."""
        path = self.checkpoint.path
        state = _read(path)
        if state is None:
            return None
        if state.fingerprint != self.fingerprint:
            log.warning("%s: saved with other settings; starting again", path)
            return None
        try:
            rows = FileRows(self.path, self.shape, self.names)
        except OSError:
            whole = False
        else:
            whole = rows.is_whole() and rows.mark().decode(errors="replace") == state.mark
            rows.close()
        if not whole:
            log.warning("%s: damaged; starting again", self.path)
            return None
        here = _machine()
        return state if here and here == state.machine else replace(state, rows=state.synced)

    def _new(self, batch_size: int) -> StoredState:
        """Make the file; of a canvas that was kept in memory, take over what is there."""
        before = None if is_stored(self.checkpoint.path) else load_progress(self.checkpoint.path, self.fingerprint)
        mark = secrets.token_hex(16)
        FileRows.create(self.path, self.shape, self.names, mark.encode())
        size = file_bytes(self.shape, len(self.names))
        log.info("%s: the unfinished canvas is kept here, %.3g GB", self.path, size / 1e9)
        state = StoredState(self.fingerprint, mark, batch_size, generation=1)
        if before is None:
            return state
        rows = FileRows(self.path, self.shape, self.names)
        tensors = {CANVAS: before.canvas, **before.row_memory}
        for name, value in tensors.items():
            rows.write(name, 0, value[0])
        rows.sync()
        rows.close()
        state = replace(state, step=before.step, generation=0, fields=list(tensors), numbers=before.numbers)
        state = replace(state, batch_size=before.batch_size)
        self._write(state, sync=True)
        return state

    def _open(self) -> FileRows:
        def attempt() -> FileRows | None:
            try:
                rows = FileRows(self.path, self.shape, self.names)
            except OSError:
                return None
            return rows if rows.mark().decode(errors="replace") == self.state.mark else None

        rows = attempt()

        def check() -> None:
            if rows is None:
                raise LargegenError(
                    f"{self.path}: not the same file for all processes; `out` must lie in a folder that they share"
                )

        if self.processes is None:
            check()
        else:
            gather(self.processes, check)
        assert rows is not None
        return rows

    def begin(self, strips: Strips, start: int, latents: Latents | None) -> int:
        """Fill the rows, if they are new, and return how many steps are done: see `MemoryCanvas.begin`."""
        self.state = replace(self.state, batch_size=strips.batch_size)
        if self.state.step < 0:
            write_start(self.rows, strips, latents)
            self.step_finished(start, {})
            return self.state.step
        if self.processes is not None and (note := read_note(self.rows, strips.rank)):
            now = self.state.step, strips.world, strips.batch_size
            if (note.step, note.world, note.batch_size) == now:
                self.rows_done = max(self.rows_done, note.here(_machine()))
        if self.state.step > start or self.rows_done:
            log.info("%s: resuming after step %d of %d", self.checkpoint.path, self.state.step, self.plan.steps)
        return self.state.step

    def saved_on_interrupt(self) -> AbstractContextManager[None]:
        """Do nothing: all is in the file, but for the band that is being made."""
        return nullcontext()

    def result(self) -> StoredLatents:
        """Return what reads the image's latents, in all processes."""
        return StoredLatents(self.rows, (self.plan.shape[1], self.plan.shape[2]))

    def rows_finished(self, rows: int) -> None:
        """Note that the next step's rows before this one are written; of several processes, see `StripNote.rows`."""
        sync = time.monotonic() - self._synced_at >= self.checkpoint.save_every_s
        if sync:
            self.rows.sync()
            self._synced_at, self._synced = time.monotonic(), rows
        if self.processes is None:
            self._note(sync=sync, rows=rows, synced=self._synced)
            return
        world, batch_size = self.processes.num_processes, self.state.batch_size
        machine = machine_digest(_machine())
        note = StripNote(self.state.step, world, batch_size, rows, self._synced, machine)
        write_note(self.rows, self.processes.process_index, note)

    def step_finished(self, step: int, numbers: dict[str, Any]) -> None:
        """Note that so many steps are done; called by all processes, each with its strip written and turned."""
        self.rows.sync()
        self._synced = 0
        fields, generation = sorted(self.rows.fields), self.rows.generation
        self._wait()  # until all have synced
        if self.main:
            done = {"step": step, "rows": 0, "synced": 0, "numbers": numbers}
            self._note(sync=True, **done, fields=fields, generation=generation)
        else:
            self.state = replace(self.state, step=step)
        self._wait()  # nobody writes over the generation before until that is noted

    def _wait(self) -> None:
        if self.processes is not None:
            with peer_errors():
                self.processes.wait_for_everyone()

    def _note(self, sync: bool = False, **changes: Any) -> None:
        self.state = replace(self.state, **changes, machine=_machine())
        self._write(self.state, sync)

    def _write(self, state: StoredState, sync: bool = False) -> None:
        path, content = self.checkpoint.path, json.dumps({"format": FORMAT, **asdict(state)})
        with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        if sync:
            sync_folder(path.parent)


def _read(path: Path) -> StoredState | None:
    """Read a note; None where there is none, or something else."""
    try:
        with path.open("rb") as file:
            if file.read(1) != b"{":
                return None
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            return None
        return StoredState(**content)
    except (OSError, ValueError, TypeError):
        return None


def _machine() -> str:
    """Tell apart running machines; "" where the system does not say."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
