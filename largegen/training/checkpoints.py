"""The checkpoints of a training run: `checkpoint-N/`, complete or not there at all."""

import json
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from largegen.errors import InputError, OutputError, TrainingError
from largegen.runtime.distributed import gather
from largegen.runtime.files import remove, remove_all_leftovers, replace, write_errors
from largegen.runtime.outputs import check_new
from largegen.training.saved_state import DamagedCheckpoint, SavedState, read_state
from largegen.training.state import TrainingState

log = logging.getLogger(__name__)

# What a run must share with the one that it resumes: the rest of its settings may change on the way.
RUN_KEYS = ("seed", "batch_size")
TASK_KEYS = (
    *("kind", "encoder_fingerprint", "embedding_dim", "tile_px", "prediction", "channels", "latent_channels"),
    *("autoencoder", "conditioner", "levels", "trained_on", "slides", "held_out", "places"),
    *("target", "few", "rank", "guidance_min", "guidance_max"),  # of a student
)
DATA_KEY = "data"  # a digest of the data: another version may read the same pixels a little differently

RUN_FILES = ("config.json", "metrics.jsonl", "loss.png", "samples", "tensorboard", "model")  # beside checkpoints


def checkpoints(out: Path) -> list[Path]:
    """List the checkpoint directories of a run, oldest first."""
    found = [path for path in out.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """Return how many optimizer steps a checkpoint has behind it."""
    return int(checkpoint.name.rpartition("-")[2])


def find_checkpoints(out: Path, resume: str | None, overwrite: bool) -> list[Path]:
    """Find the checkpoints to resume from.

    Args:
        out: The run directory.
        resume: `latest`, a checkpoint directory or None.
        overwrite: Start over where a run is.

    Returns:
        The checkpoint, and those that stand in for it where it is damaged, newest first; none to start over.

    Raises:
        OutputError: A run, or another one, is in the way.
        InputError: There is no such checkpoint.
    """
    there = checkpoints(out)
    if resume is None:
        if (there or (out / "model").exists()) and not overwrite:
            raise OutputError(f"{out}: holds a run already; `resume=latest` continues it, `overwrite=True` starts over")
        return []
    if resume == "latest":
        return there[::-1]
    path = Path(resume)
    if path not in checkpoints(path.parent) or not path.is_dir():
        raise InputError(f"`resume` {path}: not a checkpoint directory; give `latest` or a path to checkpoint-N")
    if there and path.resolve().parent != out.resolve():
        raise OutputError(f"{out}: holds another run than that of `resume` {path}; choose another `out`")
    return [path]


def read_checkpoint(candidates: Sequence[Path], processes: PartialState) -> tuple[Path, SavedState]:
    """Read the first checkpoint that is whole; those that are not are named in a warning.

    Args:
        candidates: At least one, the wanted one first.
        processes: Of the run; all of them read, and take the same one.

    Raises:
        DamagedCheckpoint: Where none is whole.
        InputError: For one of another version.
    """
    for path, before in zip(candidates, [*candidates[1:], None], strict=True):
        found: list[SavedState] = []
        try:
            gather(processes, partial(_read_into, found, path, processes.process_index))
        except DamagedCheckpoint as error:
            if before is None:
                raise
            log.warning("%s; resuming from %s", error, before.name)
        else:
            return path, found[0]
    raise ValueError("no candidates")


def _read_into(found: list[SavedState], path: Path, rank: int) -> None:
    """Keep the state in this process: `gather` would send it to all."""
    found.append(read_state(path, rank))


def check_directory(out: Path, overwrite: bool = False) -> None:
    """Find out before the work whether a run may write its files into `out`.

    Raises:
        InputError: One of them is, or holds, an input of the running command.
        OutputError: One is there and is not of a run of ours, and `overwrite` is False.
    """
    try:
        ours = "task" in json.loads((out / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        ours = bool(checkpoints(out))
    for name in RUN_FILES:
        check_new(out / name, overwrite or ours)


def check_same_run(checkpoint: Path, settings: dict[str, Any]) -> None:
    """Raise InputError where the run of `checkpoint` is not the one that `settings`, those of config.json, describe.

    Other data of the same names are warned of. A setting that the run's config.json lacks is not compared: earlier
    versions did not write it.
    """
    file = checkpoint.parent / "config.json"
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except ValueError as error:
        raise InputError(f"{file}: damaged: {error}; delete it to resume without comparing settings") from error
    now = json.loads(json.dumps(settings, default=str))
    for names, old, new in ((TASK_KEYS, before.get("task", {}), now["task"]), (RUN_KEYS, before, now)):
        for name in names:
            if name in old and old[name] != new.get(name):
                values = f"{name} {old[name]!s:.200}, not {new.get(name)!s:.200}"
                raise InputError(f"`resume` {checkpoint}: that run has {values}; resume with the same, or start over")
    old, new = before.get("task", {}).get(DATA_KEY), now["task"].get(DATA_KEY)
    if old and old != new:
        log.warning("`resume` %s: the data of that run were others, of the same names; going on with these", checkpoint)


def save_checkpoint(state: TrainingState, out: Path, step: int, keep: int) -> None:
    """Write `checkpoint-N/`, under another name first, so that a kill leaves no broken one.

    Args:
        state: What is saved.
        out: The run directory.
        step: Optimizer steps so far.
        keep: How many of the latest checkpoints stay; 0: all.

    Raises:
        OutputError: It cannot be written; the checkpoints before it stay.
        TrainingError: A weight is not finite; likewise.
    """
    accelerator = state.accelerator
    final, temporary = out / f"checkpoint-{step}", out / f".checkpoint-{step}.tmp"
    main = accelerator.is_main_process
    if not all(torch.isfinite(p).all() for p in state.bare_task.parameters()):
        raise TrainingError(f"step {step}: a weight is not finite; `resume` the last checkpoint, more gently")
    try:
        with write_errors(final):
            if main:
                remove(temporary)
                temporary.mkdir(parents=True)
            accelerator.wait_for_everyone()
            state.save(temporary)
            accelerator.wait_for_everyone()
            if main:
                replace(temporary, final)
    finally:
        if main:
            remove(temporary)
    if main and keep:
        for old in checkpoints(out)[:-keep]:
            remove(old)
    accelerator.wait_for_everyone()


def remove_later(out: Path, step: int) -> None:
    """Delete the checkpoints after `step`: a run that resumes from there takes their place."""
    for path in reversed(checkpoints(out)):
        if step_of(path) > step:
            remove(path)


def remove_unfinished(out: Path) -> None:
    """Delete what a kill left of files that were being written or deleted; only for who holds the run's lock."""
    for path in out.glob(".checkpoint-*.tmp"):
        remove(path)
    for folder in (out, out / "samples"):
        remove_all_leftovers(folder)
