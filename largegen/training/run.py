"""A training run and its directory: checkpoints that survive a kill, a log, samples, and the model at the end."""

import logging
import math
import time
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from tqdm import tqdm

from largegen.errors import InputError
from largegen.runtime.files import atomic, remove, write_errors, write_json
from largegen.runtime.lock import lock
from largegen.runtime.signals import HeldBack, held_back
from largegen.training.accelerator import make_accelerator, micro_batch
from largegen.training.checkpoints import (
    check_directory,
    check_same_run,
    checkpoints,
    find_checkpoints,
    read_checkpoint,
    remove_later,
    remove_unfinished,
    save_checkpoint,
    step_of,
)
from largegen.training.config import LoopConfig
from largegen.training.log import Metrics, plot_losses, read_metrics
from largegen.training.loop import Step, micro_batches, training_steps
from largegen.training.state import TrainingState
from largegen.training.task import Task
from largegen.version import __version__

log = logging.getLogger(__name__)


def train(task: Task, out: Path, config: LoopConfig) -> dict[str, Any]:
    """Train `task` in the run directory `out`.

    Leaves `model/`, `checkpoint-N/` (resumable), `metrics.jsonl`, `samples/step-N.png`, `loss.png` and `config.json`.

    Returns:
        Where the `model` is, the number of `steps`, and the last figure of each kind.

    Raises:
        TrainingError: A loss, gradient or weight is not finite.
        OutputError: A run is in the way, or cannot be written.
        InputError: Settings do not go together, or there is no such checkpoint.
    """
    accelerator = make_accelerator(config)
    with lock(out / "run") if accelerator.is_main_process else nullcontext():
        return _train(task, out, config, accelerator)


def check_run(out: Path, config: LoopConfig) -> None:
    """Check, before the work that prepares a run, what can be known of it by then.

    Raises:
        OutputError: A run is in the way.
        InputError: Settings do not go together, there is no such checkpoint, or it has more steps behind it than the
            run is to have.
    """
    check_directory(out, config.overwrite)
    micro_batch(config, make_accelerator(config))
    _check_steps(find_checkpoints(out, config.resume, config.overwrite), config)


def _check_steps(candidates: list[Path], config: LoopConfig) -> None:
    if candidates and step_of(candidates[0]) > config.steps:
        raise InputError(
            f"`steps` {config.steps}: {candidates[0]} has {step_of(candidates[0])} behind it already;"
            " give as many or more, `resume` an earlier one, or start over with `overwrite`"
        )


def _train(task: Task, out: Path, config: LoopConfig, accelerator: Accelerator) -> dict[str, Any]:
    micro_batch(config, accelerator)  # which raises before the work begins
    candidates = find_checkpoints(out, config.resume, config.overwrite)
    _check_steps(candidates, config)
    settings = {"version": __version__, **asdict(config), "task": task.settings}
    main = accelerator.is_main_process
    if main:
        _make_directory(out, clear=config.overwrite and not candidates)
    if candidates:
        check_same_run(candidates[0], settings)
    task.prepare()
    state = TrainingState(task, config, accelerator)
    task = state.bare_task
    start = _resume(state, out, candidates, config) if candidates else 0
    if main:
        write_json(out / "config.json", settings)
    metrics = Metrics(out, start) if main else None
    after = _Callbacks(state, out, config, metrics)
    ends, done = time.monotonic() + 60 * config.minutes if config.minutes else math.inf, start
    quiet = None if main and log.isEnabledFor(logging.WARNING) else True
    with (
        tqdm(initial=start, total=config.steps, desc="training", unit="step", disable=quiet) as bar,
        held_back() as signals,
    ):
        for step in training_steps(state, micro_batches(state, config, start), config.clip, start):
            after.losses.append(step.loss)
            after.last = step.number == config.steps or _all_out_of_time(accelerator, ends)
            bar.update()
            bar.set_postfix(loss=f"{step.loss:.4f}", refresh=False)
            try:
                if accelerator.num_processes == 1:  # of several each might stop at another place
                    with signals.let_through():
                        after(step)
                else:
                    after(step)
                    _stop_together(accelerator, signals)
            except KeyboardInterrupt:
                after.save_last(step)
                raise
            if after.last:
                done = step.number
                break
    if metrics:
        metrics.close()
        plot_losses(read_metrics(metrics.path), out / "loss.png")
        with state.averaged(), atomic(out / "model") as temporary:
            task.export(temporary)
    accelerator.wait_for_everyone()
    last = {name: value for line in read_metrics(out / "metrics.jsonl") for name, value in line.items()}
    return {"model": str(out / "model"), **last, "steps": done}


def _stop_together(accelerator: Accelerator, signals: HeldBack) -> None:
    """Raise, in all processes after the same step, the signal that has reached any of them."""
    mine = 0.0 if signals.error is None else 1.0
    if accelerator.reduce(torch.tensor(mine, device=accelerator.device)).item():
        raise signals.error or KeyboardInterrupt


def _all_out_of_time(accelerator: Accelerator, ends: float) -> bool:
    """Tell, in all processes alike, whether the time of any of them is up."""
    if ends == math.inf:
        return False
    mine = torch.tensor(float(time.monotonic() >= ends), device=accelerator.device)
    return bool(accelerator.reduce(mine).item())


class _Callbacks:
    """What happens between steps, each at its interval and after the last one: log, validation, samples, checkpoints.

    metrics: the run's log; None in all processes but the main one.
    """

    def __init__(self, state: TrainingState, out: Path, config: LoopConfig, metrics: Metrics | None):
        self.state, self.out, self.config, self.metrics = state, out, config, metrics
        self.task = state.bare_task
        self.losses: list[float] = []  # since the last line of the log
        self.last = False  # whether the present step is the last one

    def __call__(self, step: Step) -> None:
        """Do what is due after `step`."""
        for every, call in (
            (self.config.log_every, self._log),
            (self.config.validate_every, self._validate),
            (self.task.eval_every, self._evaluate),
            (self.config.checkpoint_every, self._save),
        ):
            if every and (step.number % every == 0 or self.last):
                call(step)

    def _log(self, step: Step) -> None:
        if self.metrics:
            mean, parts = sum(self.losses) / len(self.losses), {k: float(v) for k, v in step.parts.items()}
            rates = {"learning_rate": step.learning_rate, "gradient_norm": step.gradient_norm}
            self.metrics.log(step.number, loss=mean, **rates, **parts)
        self.losses = []

    def _validate(self, step: Step) -> None:
        """Log figures on the held-out data and draw samples, both with the EMA weights."""
        if self.metrics:
            with self.state.averaged():
                with write_errors(self.out):
                    (self.out / "samples").mkdir(exist_ok=True)
                self.task.preview(self.out / "samples" / f"step-{step.number:06d}.png")
                figures = self.task.validate()
            if figures:
                self.metrics.log(step.number, **figures)
        self.state.accelerator.wait_for_everyone()

    def _evaluate(self, step: Step) -> None:
        """Log figures of samples drawn with the EMA weights."""
        if self.metrics:
            with self.state.averaged():
                self.metrics.log(step.number, **self.task.evaluate())
        self.state.accelerator.wait_for_everyone()

    def _save(self, step: Step) -> None:
        save_checkpoint(self.state, self.out, step.number, self.config.checkpoints_limit)

    def save_last(self, step: Step) -> None:
        """Save what an interrupted run has done, unless that is saved already."""
        if self.losses and step.number % self.config.log_every == 0:
            self._log(step)
        if step.number not in map(step_of, checkpoints(self.out)):
            self._save(step)
        log.warning("stopped after step %d of %d, which is saved", step.number, self.config.steps)


def plan(task: Task, out: Path, config: LoopConfig) -> dict[str, Any]:
    """Say what `train` would do: its effective settings, and how much there would be to train, to see and to store."""
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


def _make_directory(out: Path, clear: bool) -> None:
    """Make the run directory and remove what a kill left of unfinished files; with `clear`, remove a whole run."""
    with write_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        remove_unfinished(out)
        if clear:
            for name in ("metrics.jsonl", "loss.png", "model"):
                remove(out / name)
            for folder, ours in (("samples", "step-*.png"), ("tensorboard", "events.out.tfevents.*")):
                for old in (out / folder).glob(ours):
                    remove(old)
                with suppress(OSError):
                    (out / folder).rmdir()  # unless it holds what others have put there
            for checkpoint in checkpoints(out):
                remove(checkpoint)


def _resume(state: TrainingState, out: Path, candidates: list[Path], config: LoopConfig) -> int:
    """Load a checkpoint and remove those after it; return its step."""
    checkpoint, saved = read_checkpoint(candidates, PartialState())
    state.restore(saved, checkpoint, config)
    start = step_of(checkpoint)
    log.info("resuming after step %d from %s", start, checkpoint)
    state.accelerator.wait_for_everyone()
    if state.accelerator.is_main_process:
        with write_errors(out):
            remove_later(out, start)
    return start
