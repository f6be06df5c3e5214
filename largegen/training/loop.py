"""The loop over optimizer steps: any number of devices, mixed precision, gradient accumulation, clipping, EMA."""

import logging
import math
import shutil
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from largegen.errors import TrainingError
from largegen.training.accelerator import micro_batch
from largegen.training.config import LoopConfig
from largegen.training.sampler import StepSampler
from largegen.training.state import TrainingState

SHARED_MEMORY = Path("/dev/shm")

log = logging.getLogger(__name__)

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Step:
    """What one optimizer step did."""

    number: int  # from 1
    loss: float  # mean over the samples of the step, of all processes
    parts: dict[str, Tensor]  # of the last micro-batch's loss, scalars
    gradient_norm: float  # before clipping
    learning_rate: float  # of the next step


def training_steps(state: TrainingState, batches: Iterable[list[Batch]], clip: float, start: int) -> Iterator[Step]:
    """Train, and yield after each optimizer step.

    A step is AdamW's (Loshchilov & Hutter 2019) on the mean gradient of its micro-batches, then one of the learning
    rate's schedule and one of the moving average of the weights.

    Args:
        state: What is trained; it changes in place.
        batches: The micro-batches of each step.
        clip: Largest norm of the gradient; 0 switches clipping off.
        start: Steps that lie behind.

    Raises:
        TrainingError: A loss or gradient is not finite; the weights are still those of the step before.
    """
    accelerator = state.accelerator
    for number, micro_batches in enumerate(batches, start + 1):
        state.task.train()
        total = torch.zeros((), device=accelerator.device)
        for batch in micro_batches:
            batch = {name: values.to(accelerator.device, non_blocking=True) for name, values in batch.items()}
            with accelerator.accumulate(state.task):
                with accelerator.autocast():
                    loss, parts = state.task(batch)
                total += loss.detach() / len(micro_batches)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    mean = accelerator.reduce(total, "mean").item()
                    norm = float(accelerator.clip_grad_norm_(state.parameters, clip or math.inf))
                    _check_finite(number, mean, norm, scaled=accelerator.scaler is not None)
                state.optimizer.step()
                state.optimizer.zero_grad()
        state.schedule.step()
        state.ema.step(state.parameters)
        yield Step(number, mean, parts, norm, state.schedule.get_last_lr()[0])


def micro_batches(state: TrainingState, config: LoopConfig, start: int) -> Iterator[list[Batch]]:
    """Yield this process's micro-batches of each optimizer step after `start`, as many as are accumulated."""
    accelerator = state.accelerator
    sampler = StepSampler(config.batch_size, start, config.steps, accelerator.process_index, accelerator.num_processes)
    loader = DataLoader(
        state.bare_task.dataset,
        micro_batch(config, accelerator),
        sampler=sampler,
        num_workers=_workers(state, config, start),
        worker_init_fn=_leave_signals_to_main,
        pin_memory=accelerator.device.type == "cuda",
        generator=torch.Generator(),  # else it draws from the global one, and a resumed run would differ
    )
    batches = iter(loader)
    for _ in sampler.steps:
        yield [next(batches) for _ in range(config.accumulation)]


def _leave_signals_to_main(worker: int) -> None:
    """Let a worker live on where the whole job is sent SIGTERM or SIGINT: the main process saves, and ends it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _workers(state: TrainingState, config: LoopConfig, start: int) -> int:
    """Return how many processes prepare samples: none where the memory that they hand them over in is too small."""
    if not config.workers or not SHARED_MEMORY.is_dir() or start >= config.steps:
        return config.workers
    sample = state.bare_task.dataset[start * config.batch_size]
    batch = sum(value.nbytes for value in sample.values()) * micro_batch(config, state.accelerator)
    needed = batch * (2 * config.workers + 1) * state.accelerator.num_processes  # two batches of each wait
    free = shutil.disk_usage(SHARED_MEMORY).free
    if needed < free:
        return config.workers
    log.warning(
        "%s has %.0f MB free, and %d `workers` need %.0f MB: samples are prepared without them, slower"
        " (docker run --shm-size=1g gives more)",
        *(SHARED_MEMORY, free / 1e6, config.workers, needed / 1e6),
    )
    return 0


def _check_finite(step: int, loss: float, norm: float, scaled: bool) -> None:
    """Raise TrainingError before a NaN or infinity reaches the weights.

    scaled: fp16's gradient scaler is at work, which skips a step of infinite gradients itself.
    """
    for name, value in (("loss", loss), ("gradient", norm)):
        if not math.isfinite(value) and not (name == "gradient" and scaled):
            raise TrainingError(
                f"step {step}: the {name} is {value}; resume from a checkpoint with `resume` and a lower"
                " `learning_rate` or `mixed_precision=no`"
            )
