"""How a network is trained, whichever it is: the settings of the loop, and the devices and precision it works in."""

import os
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from largegen.errors import InputError
from largegen.runtime.device import keep_freed_memory, resolve_device, resolve_precision
from largegen.runtime.distributed import process_group


@dataclass(frozen=True)
class LoopConfig:
    """How a network is trained, whichever it is."""

    steps: int = 10_000  # optimizer steps in all
    batch_size: int = 32  # samples per optimizer step, over all processes and accumulation steps
    accumulation: int = 1  # micro-batches per process and optimizer step
    learning_rate: float = 1e-4  # after the warm-up
    warmup_steps: int = 1000  # optimizer steps
    schedule: str = "constant"  # of the learning rate after the warm-up: constant or cosine (to zero)
    weight_decay: float = 0.01  # AdamW's
    clip: float = 1.0  # largest gradient norm; 0 switches clipping off
    ema_decay: float = 0.9999  # per step, reached gradually
    mixed_precision: str = "auto"  # auto, no, bf16 or fp16
    device: str = "auto"  # auto, cpu, cuda or mps
    seed: int = 0
    workers: int = 2  # processes that prepare samples
    log_every: int = 10  # steps
    validate_every: int = 500  # steps
    checkpoint_every: int = 500  # steps
    checkpoints_limit: int = 2  # how many are kept; 0 keeps all
    resume: str | None = None  # "latest", or a checkpoint directory
    overwrite: bool = False  # start over where a run is


def make_accelerator(config: LoopConfig) -> Accelerator:
    """The process group and precision of a run; `auto` is what `accelerate launch` says, else the best there is.

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
        raise InputError("--mixed-precision fp16: not on a CPU; use bf16 or no")
    process_group(device)
    return Accelerator(
        mixed_precision=precision, gradient_accumulation_steps=config.accumulation, cpu=device.type == "cpu"
    )


def micro_batch(config: LoopConfig, accelerator: Accelerator) -> int:
    """Samples that one process sees at once."""
    shares = accelerator.num_processes * config.accumulation
    if config.batch_size % shares:
        raise InputError(
            f"--batch-size {config.batch_size} does not divide into {accelerator.num_processes} process(es)"
            f" x {config.accumulation} accumulation step(s)"
        )
    return config.batch_size // shares
