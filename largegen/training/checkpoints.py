"""The checkpoints of a training run: `checkpoint-N/`, complete or not there at all."""

import pickle
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors import SafetensorError

from largegen.errors import InputError, OutputError, TrainingError
from largegen.runtime import remove, writing


def checkpoints(out: Path) -> list[Path]:
    """The checkpoint directories of a run, oldest first."""
    found = [path for path in out.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """How many optimizer steps a checkpoint has behind it."""
    return int(checkpoint.name.rpartition("-")[2])


def find_checkpoint(out: Path, resume: str | None, overwrite: bool) -> Path | None:
    """The checkpoint to go on from; None to start anew.

    resume: `latest`, a checkpoint directory or None. Raises OutputError where a run is in the way, and InputError where
    there is no such checkpoint.
    """
    there = checkpoints(out)
    if resume is None:
        if (there or (out / "model").exists()) and not overwrite:
            raise OutputError(f"{out}: holds a run already; --resume latest goes on with it, --overwrite starts anew")
        return None
    if resume == "latest":
        return there[-1] if there else None
    path = Path(resume)
    if path not in checkpoints(path.parent) or not path.is_dir():
        raise InputError(f"--resume {path}: not a checkpoint directory; give `latest` or a path to checkpoint-N")
    return path


def load_checkpoint(accelerator: Accelerator, checkpoint: Path) -> None:
    """Load everything that `save_checkpoint` saved. Raises InputError for one that is damaged or of another form."""
    try:
        accelerator.load_state(str(checkpoint))
    except (OSError, RuntimeError, ValueError, KeyError, IndexError, SafetensorError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{checkpoint}: damaged, or does not fit this run: {reason}") from error


def save_checkpoint(accelerator: Accelerator, out: Path, step: int, keep: int) -> None:
    """Write `checkpoint-N/`, under another name first, so that a kill leaves no broken one.

    keep: how many of the latest stay; 0: all. Raises OutputError where it cannot be written, and TrainingError where
    the weights are not finite; the checkpoints before it stay.
    """
    final, temporary = out / f"checkpoint-{step}", out / f".checkpoint-{step}.tmp"
    main = accelerator.is_main_process
    if not all(torch.isfinite(p).all() for model in accelerator._models for p in model.parameters()):
        raise TrainingError(f"step {step}: a weight is not finite; --resume the last checkpoint, more gently")
    if main:
        remove(temporary)
    accelerator.wait_for_everyone()
    try:
        with writing(final):
            accelerator.save_state(str(temporary))
            accelerator.wait_for_everyone()
            if main:
                remove(final)
                temporary.rename(final)
    finally:
        if main:
            remove(temporary)
    if main and keep:
        for old in checkpoints(out)[:-keep]:
            remove(old.rename(old.with_name(f".{old.name}.tmp")))  # renamed first: a kill leaves no half checkpoint
    accelerator.wait_for_everyone()


def remove_unfinished(out: Path) -> None:
    """Delete what a kill left of checkpoints that were being written or deleted."""
    for path in out.glob(".checkpoint-*.tmp"):
        remove(path)
