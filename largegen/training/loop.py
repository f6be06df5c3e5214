"""The training loop: any number of devices, mixed precision, EMA, validation, checkpoints that survive a kill."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from largegen.errors import TrainingError
from largegen.runtime.files import atomic, remove, write_errors, write_json
from largegen.runtime.lock import lock
from largegen.training.accelerator import make_accelerator, micro_batch
from largegen.training.checkpoints import (
    check_same_run,
    find_checkpoint,
    load_checkpoint,
    remove_later,
    remove_unfinished,
    save_checkpoint,
    step_of,
)
from largegen.training.config import LoopConfig
from largegen.training.log import Metrics, plot_losses, read_metrics
from largegen.training.sampler import StepSampler
from largegen.version import __version__

log = logging.getLogger(__name__)


class Task(nn.Module):
    """What is trained: a module whose forward is the loss, with its data and its ways to look at the result.

    dataset: maps a sample number to a dict of tensors, purely (see crops.py). `forward(batch)` returns the scalar
    loss and a dict of scalar tensors to log.
    """

    dataset: Dataset
    settings: dict[str, Any]  # what it is and how much data it has, for config.json and --dry-run
    eval_every: int = 0  # steps between calls of `evaluate`; 0 for none

    def validate(self) -> dict[str, float]:
        """Figures on the held-out data, with the EMA weights in place."""
        return {}

    def evaluate(self) -> dict[str, float]:
        """Figures of samples, which take longer than `validate`, with the EMA weights in place."""
        return {}

    def preview(self, path: Path) -> None:
        """Write an image at `path` (.png) that shows how good the network is now."""

    def export(self, directory: Path) -> None:
        """Write the trained networks, in the form that the other commands load."""
        raise NotImplementedError


def fit(task: Task, out: Path, config: LoopConfig) -> dict[str, Any]:
    """Fit `task` in the run directory `out`; returns where the `model` is, and the last figure of each kind.

    Leaves `model/`, `checkpoint-N/` (resumable), `metrics.jsonl`, `samples/step-N.png`, `loss.png` and `config.json`.
    Raises TrainingError on a NaN or infinite loss, OutputError where a run is in the way or cannot be written, and
    InputError for settings that do not fit together.
    """
    accelerator = make_accelerator(config)
    with lock(out / "run") if accelerator.is_main_process else nullcontext():
        return _Run(task, out, config, accelerator).run()


def plan(task: Task, out: Path, config: LoopConfig) -> dict[str, Any]:
    """What `fit` would do: its effective settings, and how much there would be to train, to see and to store."""
    accelerator = make_accelerator(config)
    micro_batch(config, accelerator)
    trained = sum(p.numel() for p in task.parameters() if p.requires_grad)
    checkpoint_mb = (16 * trained + sum(4 * b.numel() for b in task.buffers())) / 1e6  # weights, their EMA, two moments
    kept = config.checkpoints_limit or math.ceil(config.steps / config.checkpoint_every)
    return {
        "out": str(out),
        "device": str(accelerator.device),
        "processes": accelerator.num_processes,
        "mixed_precision": accelerator.mixed_precision,
        "config": asdict(config),
        "task": task.settings,
        "samples": config.steps * config.batch_size,
        "parameters": trained,
        "checkpoint_mb": round(checkpoint_mb, 1),
        "disk_mb": round((kept + 1) * checkpoint_mb, 1),  # one more while it is written
    }


class _Run:
    def __init__(self, task: Task, out: Path, config: LoopConfig, accelerator: Accelerator):
        self.out, self.config, self.accelerator = out, config, accelerator
        self.micro_batch = micro_batch(config, accelerator)
        self.resume_from = find_checkpoint(out, config.resume, config.overwrite)
        parameters = [p for p in task.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, config.learning_rate, weight_decay=config.weight_decay)
        self.schedule = get_scheduler(
            "cosine" if config.schedule == "cosine" else "constant_with_warmup",
            optimizer,
            num_warmup_steps=min(config.warmup_steps, config.steps),
            num_training_steps=config.steps,
        )
        if accelerator.device.type in ("cpu", "cuda"):
            task = task.to(memory_format=torch.channels_last)
        self.task, self.optimizer = accelerator.prepare(task, optimizer)
        self.bare: Task = accelerator.unwrap_model(self.task)
        self.parameters = [p for p in self.bare.parameters() if p.requires_grad]
        self.ema = EMAModel(self.parameters, decay=config.ema_decay)
        self.ema.to(accelerator.device)
        accelerator.register_for_checkpointing(self.schedule, self.ema)

    def run(self) -> dict[str, Any]:
        config, out, main = self.config, self.out, self.accelerator.is_main_process
        if main:
            self._make_directory()
        start = self._resume()
        if main:
            write_json(out / "config.json", self._settings())
        metrics = Metrics(out, start) if main else None
        quiet = None if main and log.isEnabledFor(logging.WARNING) else True
        bar = tqdm(initial=start, total=config.steps, desc="training", unit="step", disable=quiet)
        losses: list[float] = []
        with bar:
            for step, batches in enumerate(self._steps(start), start + 1):
                loss, parts, norm = self._optimize(batches, step)
                losses.append(loss)
                bar.update()
                bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
                if step % config.log_every == 0 or step == config.steps:
                    if metrics:
                        mean, rate = sum(losses) / len(losses), self.schedule.get_last_lr()[0]
                        figures = {name: float(value) for name, value in parts.items()}
                        metrics.log(step, loss=mean, learning_rate=rate, gradient_norm=norm, **figures)
                    losses = []
                looks = [
                    look
                    for look, every in ((self._validate, config.validate_every), (self._evaluate, self.bare.eval_every))
                    if every and (step % every == 0 or step == config.steps)
                ]
                for look in looks if metrics else ():
                    look(step, metrics)
                if looks:
                    self.accelerator.wait_for_everyone()
                if step % config.checkpoint_every == 0 or step == config.steps:
                    save_checkpoint(self.accelerator, out, step, config.checkpoints_limit)
        if metrics:
            metrics.close()
            plot_losses(read_metrics(metrics.path), out / "loss.png")
            with self._averaged(), torch.no_grad(), atomic(out / "model") as temporary:
                self.bare.export(temporary)
        self.accelerator.wait_for_everyone()
        last = {name: value for line in read_metrics(out / "metrics.jsonl") for name, value in line.items()}
        return {"model": str(out / "model"), "steps": config.steps, **last}

    def _make_directory(self) -> None:
        out = self.out
        with write_errors(out):
            out.mkdir(parents=True, exist_ok=True)
            remove_unfinished(out)
            if self.config.overwrite and not self.resume_from:
                for name in ("metrics.jsonl", "samples", "tensorboard", "loss.png", "model"):
                    remove(out / name)
                for old in out.glob("checkpoint-*"):
                    remove(old)

    def _settings(self) -> dict[str, Any]:
        return {"version": __version__, **asdict(self.config), "task": self.bare.settings}

    def _resume(self) -> int:
        """Load the checkpoint to resume from, but for the settings, which are today's; returns its step."""
        if not self.resume_from:
            return 0
        check_same_run(self.resume_from, self._settings())
        load_checkpoint(self.accelerator, self.resume_from)
        self.ema.to(self.accelerator.device)
        self.ema.decay = self.config.ema_decay
        rate, schedule = self.config.learning_rate, self.schedule
        schedule.base_lrs = [rate] * len(schedule.base_lrs)
        for group, factor in zip(self.optimizer.param_groups, schedule.lr_lambdas, strict=True):
            lr = rate * factor(schedule.last_epoch)
            group.update(lr=lr, initial_lr=rate, weight_decay=self.config.weight_decay)
        start = step_of(self.resume_from)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            with write_errors(self.out):
                remove_later(self.out, start)
        log.info("resuming after step %d from %s", start, self.resume_from)
        return start

    def _steps(self, start: int) -> Iterator[list[dict[str, Tensor]]]:
        """The micro-batches of each optimizer step from `start` on."""
        accelerator, config = self.accelerator, self.config
        sampler = StepSampler(
            config.batch_size, start, config.steps, accelerator.process_index, accelerator.num_processes
        )
        loader = DataLoader(
            self.bare.dataset,
            self.micro_batch,
            sampler=sampler,
            num_workers=config.workers,
            pin_memory=accelerator.device.type == "cuda",
            generator=torch.Generator(),  # else it draws from the global one, and a resumed run would differ
        )
        batches = iter(loader)
        for _ in sampler.steps:
            yield [next(batches) for _ in range(config.accumulation)]

    def _optimize(self, batches: list[dict[str, Tensor]], step: int) -> tuple[float, dict[str, Tensor], float]:
        """One optimizer step: its loss, the parts of the last micro-batch's loss, and the norm of the gradient."""
        accelerator, config = self.accelerator, self.config
        self.task.train()
        total = torch.zeros((), device=accelerator.device)
        for batch in batches:
            batch = {k: v.to(accelerator.device, non_blocking=True) for k, v in batch.items()}
            with accelerator.accumulate(self.task):
                with accelerator.autocast():
                    loss, parts = self.task(batch)
                total += loss.detach() / len(batches)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    mean = accelerator.reduce(total, "mean").item()
                    norm = float(accelerator.clip_grad_norm_(self.parameters, config.clip or math.inf))
                    self._check(step, mean, norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
        self.schedule.step()
        self.ema.step(self.parameters)
        return mean, parts, norm

    def _check(self, step: int, loss: float, norm: float) -> None:
        """Stop before a NaN or infinity reaches the weights; fp16's gradient scaler sees to infinite gradients."""
        for name, value in (("loss", loss), ("gradient", norm)):
            if not math.isfinite(value) and not (name == "gradient" and self.accelerator.scaler):
                raise TrainingError(
                    f"step {step}: the {name} is {value}; resume from a checkpoint with --resume and a lower"
                    " --learning-rate or --mixed-precision no"
                )

    def _validate(self, step: int, metrics: Metrics) -> None:
        """Log figures on the held-out data and draw a sample image, both with the EMA weights."""
        with self._averaged(), torch.no_grad():
            with write_errors(self.out):
                (self.out / "samples").mkdir(exist_ok=True)
            self.bare.preview(self.out / "samples" / f"step-{step:06d}.png")
            figures = self.bare.validate()
        if figures:
            metrics.log(step, **figures)

    def _evaluate(self, step: int, metrics: Metrics) -> None:
        """Log figures of samples drawn with the EMA weights."""
        with self._averaged(), torch.no_grad():
            metrics.log(step, **self.bare.evaluate())

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The EMA weights in place of the last ones, and evaluation mode."""
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        self.bare.eval()
        try:
            yield
        finally:
            self.ema.restore(self.parameters)
            self.bare.train()
