"""The progress of a sampling run on disk, so that a run that was killed resumes where it stopped."""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

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


def save_progress(
    path: Path, fingerprint: str, step: int, batch_size: int, canvas: Tensor, scheduler: "SchedulerMixin"
) -> None:
    """Write the canvas after `step` steps of so many windows at once, and the scheduler's memory, as safetensors."""
    tensors, numbers = {"canvas": canvas}, {}
    for name in SCHEDULER_MEMORY:
        value = getattr(scheduler, name, None)
        if isinstance(value, list):
            tensors |= {f"{name}.{i}": item for i, item in enumerate(value) if item is not None}
        elif isinstance(value, Tensor):
            tensors[name] = value
        elif value is not None:
            numbers[name] = value
    metadata = {"step": str(step), "batch_size": str(batch_size), "memory": json.dumps(numbers)}
    with atomic(path) as temporary:
        on_host = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        save_file(on_host, temporary, metadata | {"fingerprint": fingerprint})


def load_progress(path: Path, fingerprint: str, processes: "PartialState | None" = None) -> dict | None:
    """Read what `save_progress` wrote: {"step", "batch_size", "canvas", "memory"}; the main one reads, all get it.

    None where there is no such file, or one that is damaged or has another fingerprint, which is logged.
    """
    found = [_read(path, fingerprint) if processes is None or processes.is_main_process else None]
    if processes is not None and processes.num_processes > 1:
        from accelerate.utils import broadcast_object_list

        broadcast_object_list(found)
    return found[0]


def _read(path: Path, fingerprint: str) -> dict | None:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            if metadata["fingerprint"] != fingerprint:
                log.warning("%s: saved with other settings; starting again", path)
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        memory = tensors | json.loads(metadata["memory"])
        step, batch_size = int(metadata["step"]), int(metadata["batch_size"])
        return {"step": step, "batch_size": batch_size, "canvas": memory.pop("canvas"), "memory": memory}
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        log.warning("%s: damaged; starting again", path)
        return None


def restore_memory(scheduler: "SchedulerMixin", memory: dict, device: torch.device) -> None:
    """Give a scheduler whose timesteps are set the memory that `load_progress` found."""
    for name, value in memory.items():
        value = value.to(device) if isinstance(value, Tensor) else value
        if "." in name:  # an item of a list, which set_timesteps has made
            name, index = name.split(".")
            getattr(scheduler, name)[int(index)] = value
        else:
            setattr(scheduler, name, value)
