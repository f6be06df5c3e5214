"""The state of a training run on disk, as plain data: safetensors and JSON, in which nothing can be run."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from largegen.errors import InputError
from largegen.models.storage import load_tensors, save_tensors
from largegen.runtime.files import not_damaged, write_json

FORMAT, VERSION = "largegen-checkpoint", 1
MODEL, STATE, NUMBERS = "model.safetensors", "state.safetensors", "state.json"


class DamagedCheckpoint(InputError):
    """A checkpoint whose files are missing, cut off or of another kind: the one before it may be whole."""


@dataclass(frozen=True)
class SavedState:
    """What a checkpoint holds."""

    model: dict[str, Tensor]  # weights of the task, by their names
    state: dict[str, Tensor]  # of the optimizer and the moving average, see state.py
    numbers: dict[str, Any]  # JSON values: of the optimizer, the schedule, the moving average and the scaler
    random: dict[str, Tensor]  # states of this process's generators, by device; none for a process that saved none


def write_state(saved: SavedState, directory: Path) -> None:
    """Write what all processes share into a directory; `write_random` adds what each has of its own."""
    directory.mkdir(exist_ok=True)
    save_tensors(saved.model, directory / MODEL)
    save_tensors(saved.state, directory / STATE)
    write_json(directory / NUMBERS, {"format": FORMAT, "version": VERSION, **saved.numbers})


def write_random(random: dict[str, Tensor], directory: Path, rank: int) -> None:
    """Write the states of one process's generators."""
    save_tensors(random, directory / f"random-{rank}.safetensors")


def read_state(directory: Path, rank: int) -> SavedState:
    """Read a checkpoint.

    Args:
        directory: The checkpoint.
        rank: Of the process whose generators are wanted.

    Raises:
        DamagedCheckpoint: Where a file is missing, empty, cut off or not what it should be.
        InputError: Where it was written by another version.
    """
    if not (directory / NUMBERS).exists() and (directory / "custom_checkpoint_0.pkl").exists():
        raise InputError(
            f"{directory}: of an earlier version, whose checkpoints hold pickles, which can run code; not read."
            " Start over, or from its model with `init_from`"
        )
    try:
        numbers = json.loads((directory / NUMBERS).read_text(encoding="utf-8"))
        if numbers.get("format") != FORMAT:
            raise ValueError(f"{NUMBERS} is not of a checkpoint")
        if numbers["version"] > VERSION:
            raise InputError(f"{directory}: written by a newer largegen; upgrade this one")
        own = directory / f"random-{rank}.safetensors"
        random = load_tensors(own) if rank < numbers["processes"] else {}
        return SavedState(load_tensors(directory / MODEL), load_tensors(directory / STATE), numbers, random)
    except Exception as error:  # the readers raise a dozen kinds for damaged files
        not_damaged(error, directory)
        reason = " ".join(str(error).split())[:200]
        raise DamagedCheckpoint(f"{directory}: damaged: {reason}") from error
