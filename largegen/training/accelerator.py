"""The devices and the precision that a network is trained in."""

import os

import torch
from accelerate import Accelerator

from largegen.errors import InputError
from largegen.runtime.device import keep_freed_memory, resolve_device, resolve_precision
from largegen.runtime.distributed import process_group
from largegen.training.config import LoopConfig


def make_accelerator(config: LoopConfig) -> Accelerator:
    """Set up the process group and precision of a run; `auto` is what `accelerate launch` says, else the best there is.

    Without a word on precision `accelerate launch` says `no`, so that this counts as nothing said.
    """
    device = resolve_device(config.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    elif device.type == "cpu":
        keep_freed_memory()
    precision = None if config.mixed_precision == "auto" else config.mixed_precision
    if precision is None and os.environ.get("ACCELERATE_MIXED_PRECISION", "no") == "no":
        precision = "bf16" if resolve_precision("auto", device) == torch.bfloat16 else "no"
    if precision == "fp16" and device.type == "cpu":
        raise InputError("`mixed_precision` fp16: not on a CPU; use bf16 or no")
    process_group(device)
    return Accelerator(
        mixed_precision=precision, gradient_accumulation_steps=config.accumulation, cpu=device.type == "cpu"
    )


def micro_batch(config: LoopConfig, accelerator: Accelerator) -> int:
    """Return how many samples one process sees at once."""
    shares = accelerator.num_processes * config.accumulation
    if config.batch_size % shares:
        raise InputError(
            f"`batch_size` {config.batch_size} does not divide into {accelerator.num_processes} process(es)"
            f" x {config.accumulation} accumulation step(s)"
        )
    return config.batch_size // shares
