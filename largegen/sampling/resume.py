"""The progress of a sampling run on disk, so that a run that was killed resumes where it stopped."""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from largegen.runtime.files import atomic
from largegen.runtime.private_api import SCHEDULER_MEMORY

if TYPE_CHECKING:
    from accelerate import PartialState
    from diffusers import SchedulerMixin

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
    memory: dict[str, Any]  # of the scheduler

    def restore_memory(self, scheduler: "SchedulerMixin", device: torch.device) -> None:
        """Give its memory to a scheduler whose timesteps are set."""
        for name, value in self.memory.items():
            value = value.to(device) if isinstance(value, Tensor) else value
            if "." in name:  # an item of a list, which set_timesteps has made
                name, index = name.split(".")
                getattr(scheduler, name)[int(index)] = value
            else:
                setattr(scheduler, name, value)


class ProgressSaver:
    """Loads and saves the progress of one run; of several processes, the main one.

    Args:
        checkpoint: where, how often, and for what.
        settings: of the sampler, which must be the same for a run to resume.
        processes: accelerate's processes that share the work.
    """

    def __init__(self, checkpoint: Checkpoint, settings: str, processes: "PartialState | None" = None) -> None:
        self.checkpoint = checkpoint
        self.fingerprint = json.dumps([settings, checkpoint.fingerprint])
        self.processes = processes
        self._main = processes is None or processes.is_main_process
        self._saved_at, self._interval_s = time.monotonic(), checkpoint.save_every_s
        self._unsaved: Progress | None = None  # of the last step

    def load(self) -> Progress | None:
        """Read the progress of the run before, in every process.

        Returns:
            None where there is no checkpoint, or a damaged one or one of other settings, which is logged.
        """
        found = [load_progress(self.checkpoint.path, self.fingerprint) if self._main else None]
        if self.processes is not None and self.processes.num_processes > 1:
            from accelerate.utils import broadcast_object_list

            broadcast_object_list(found)
        return found[0]

    def save(self, step: int, batch_size: int, canvas: Tensor, scheduler: "SchedulerMixin", last: bool) -> None:
        """Write the progress after `step` steps, if it is the last one or the last save is long enough ago."""
        if not self._main:
            return
        self._unsaved = Progress(step, batch_size, canvas, memory_of(scheduler))
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


def memory_of(scheduler: "SchedulerMixin") -> dict[str, Any]:
    """Take the memory of a scheduler as it is now: numbers and tensors, by names as Progress has them."""
    found: dict[str, Any] = {}
    for name in SCHEDULER_MEMORY:
        value = getattr(scheduler, name, None)
        if isinstance(value, list):
            found |= {f"{name}.{i}": item for i, item in enumerate(value) if item is not None}
        elif value is not None:
            found[name] = value
    return found


def save_progress(path: Path, fingerprint: str, progress: Progress) -> None:
    """Write a canvas and what belongs to it as safetensors."""
    tensors = {"canvas": progress.canvas} | {k: v for k, v in progress.memory.items() if isinstance(v, Tensor)}
    numbers = {name: value for name, value in progress.memory.items() if name not in tensors}
    metadata = {"step": str(progress.step), "batch_size": str(progress.batch_size), "memory": json.dumps(numbers)}
    with atomic(path) as temporary:
        on_host = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        save_file(on_host, temporary, metadata | {"fingerprint": fingerprint})


def load_progress(path: Path, fingerprint: str) -> Progress | None:
    """Read what `save_progress` wrote.

    Returns:
        None where there is no such file, or one that is damaged or has another fingerprint, which is logged.
    """
    try:
        with safe_open(path, "pt") as file:
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
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        log.warning("%s: damaged; starting again", path)
        return None
