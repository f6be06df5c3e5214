"""The progress of a sampling run on disk, so that a run that was killed resumes where it stopped."""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from largegen.runtime.files import atomic, not_damaged

log = logging.getLogger(__name__)

SAVE_INTERVAL_RATIO = 20  # a save takes at most a 20th of the time, so that a huge canvas is not saved all the time


@dataclass(frozen=True)
class Checkpoint:
    """A file that keeps what is being sampled."""

    path: Path
    fingerprint: str = ""  # stands for all that the result depends on but the sampler's settings
    save_every_s: float = 60.0  # at least so long between saves; 0: after every step
    keep_batch_size: bool = False  # whether a run that resumes takes the batch size of the one before

    def part(self, name: str) -> "Checkpoint":
        """Return the checkpoint of one part of the work, beside that of the rest: `<path>.<name>`."""
        return replace(self, path=part_path(self.path, name))


def part_path(path: Path, name: str) -> Path:
    """Name the file in which `Checkpoint.part` keeps the progress of a part."""
    return path.with_name(f"{path.name}.{name}")


@dataclass(frozen=True)
class Progress:
    """What a checkpoint holds."""

    step: int  # steps done
    batch_size: int  # windows at once
    canvas: Tensor  # after these steps
    memory: dict[str, Any]  # of the scheduler: numbers, and tensors of the canvas' shape

    @property
    def row_memory(self) -> dict[str, Tensor]:
        """What the scheduler remembers of the canvas' rows."""
        return {name: value for name, value in self.memory.items() if isinstance(value, Tensor)}

    @property
    def numbers(self) -> dict[str, Any]:
        """What it remembers beside them."""
        return {name: value for name, value in self.memory.items() if not isinstance(value, Tensor)}


class ProgressSaver:
    """Loads and saves the progress of one run of one process, which holds all of it in memory.

    Args:
        checkpoint: where, how often, and for what.
        settings: of the sampler, which must be the same for a run to resume.
    """

    def __init__(self, checkpoint: Checkpoint, settings: str) -> None:
        self.checkpoint = checkpoint
        self.fingerprint = json.dumps([settings, checkpoint.fingerprint])
        self._saved_at, self._interval_s = time.monotonic(), checkpoint.save_every_s
        self._unsaved: Progress | None = None  # of the last step

    def load(self) -> Progress | None:
        """Read the progress of the run before; None as of `load_progress`."""
        return load_progress(self.checkpoint.path, self.fingerprint)

    def save(self, step: int, batch_size: int, canvas: Tensor, memory: dict[str, Any], last: bool) -> None:
        """Write the progress after `step` steps, if it is the last one or the last save is long enough ago."""
        self._unsaved = Progress(step, batch_size, canvas, memory)
        if last or time.monotonic() - self._saved_at >= self._interval_s:
            self._write()

    def _write(self) -> None:
        if self._unsaved is None:
            return
        started = time.monotonic()
        save_progress(self.checkpoint.path, self.fingerprint, self._unsaved)
        self._unsaved, self._saved_at = None, time.monotonic()
        every_s = self.checkpoint.save_every_s
        self._interval_s = every_s and max(every_s, SAVE_INTERVAL_RATIO * (self._saved_at - started))

    @contextmanager
    def saved_on_interrupt(self) -> Iterator[None]:
        """Write what the last whole step gave, where SIGINT or SIGTERM interrupts the steps."""
        try:
            yield
        except KeyboardInterrupt:
            self._write()
            raise


def save_progress(path: Path, fingerprint: str, progress: Progress) -> None:
    """Write a canvas and what belongs to it as safetensors."""
    tensors, memory = {"canvas": progress.canvas} | progress.row_memory, json.dumps(progress.numbers)
    metadata = {"step": str(progress.step), "batch_size": str(progress.batch_size), "memory": memory}
    with atomic(path) as temporary:
        on_host = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        save_file(on_host, temporary, metadata | {"fingerprint": fingerprint})


def load_progress(path: Path, fingerprint: str) -> Progress | None:
    """Read what `save_progress` wrote.

    Returns:
        None where there is no such file, or one that is damaged or has another fingerprint, which is logged.
    """
    try:
        with path.open("rb"), safe_open(path, "pt") as file:  # which alone would say of any reason that there is none
            metadata = file.metadata()
            if metadata["fingerprint"] != fingerprint:
                log.warning("%s: saved with other settings; starting again", path)
                return None
            # Copies: a tensor keeps the file mapped, and Windows does not replace a file that is.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a mapping)
        memory = tensors | json.loads(metadata["memory"])
        canvas = memory.pop("canvas")
        return Progress(int(metadata["step"]), int(metadata["batch_size"]), canvas, memory)
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        not_damaged(error, path)
        log.warning("%s: damaged; starting again", path)
        return None
