"""The training loop: any number of devices, mixed precision, EMA, validation, checkpoints that survive a kill."""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from largegen import __version__
from largegen.dataset import StepSampler
from largegen.errors import InputError, OutputError, TrainingError
from largegen.runtime import atomic, cpu_has_bf16, lock, remove, writing

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoopConfig:
    """How a network is fitted, whichever it is."""

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
    overwrite: bool = False  # start anew where a run is


class Task(nn.Module):
    """What is fitted: a module whose forward is the loss, with its data and its ways to look at the result.

    dataset: maps a sample number to a dict of tensors, purely (see dataset.py). `forward(batch)` returns the scalar
    loss and a dict of scalar tensors to log.
    """

    dataset: Dataset
    settings: dict[str, Any]

    def validate(self) -> dict[str, float]:
        """Figures on the held-out data, with the EMA weights in place."""
        return {}

    def preview(self, path: Path) -> None:
        """Write a picture at `path` (.png) that shows how good the network is now."""

    def export(self, directory: Path) -> None:
        """Write the fitted networks, in the form that the other commands load."""
        raise NotImplementedError


def fit(task: Task, out: Path, config: LoopConfig) -> Path:
    """Fit `task` in the run directory `out` and return the exported model directory, `out/model`.

    Leaves `checkpoint-N/` (resumable), `metrics.jsonl`, `samples/step-N.png`, `loss.png` and `config.json`. Raises
    TrainingError on a NaN or infinite loss, OutputError where a run is in the way or cannot be written, and
    InputError for settings that do not fit together.
    """
    accelerator = make_accelerator(config)
    main = accelerator.is_main_process
    with lock(out / "run") if main else nullcontext():
        return _Run(task, out, config, accelerator).run()


def make_accelerator(config: LoopConfig) -> Accelerator:
    """The process group and precision of a run; `auto` is what `accelerate launch` says, else the best there is."""
    precision = None if config.mixed_precision == "auto" else config.mixed_precision
    if precision is None and "ACCELERATE_MIXED_PRECISION" not in os.environ:
        on_gpu = torch.cuda.is_available() and config.device != "cpu"
        native = torch.cuda.is_bf16_supported() if on_gpu else cpu_has_bf16()
        precision = "bf16" if native else "no"
    return Accelerator(
        mixed_precision=precision,
        gradient_accumulation_steps=config.accumulation,
        cpu=config.device == "cpu",
    )


class _Run:
    def __init__(self, task: Task, out: Path, config: LoopConfig, accelerator: Accelerator):
        self.out, self.config, self.accelerator = out, config, accelerator
        shares = accelerator.num_processes * config.accumulation
        if config.batch_size % shares:
            raise InputError(
                f"--batch-size {config.batch_size} does not divide into {accelerator.num_processes} process(es)"
                f" x {config.accumulation} accumulation step(s)"
            )
        self.micro_batch = config.batch_size // shares
        self.resume_from = _find_resume(out, config)
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

    def run(self) -> Path:
        config, out = self.config, self.out
        start = self._start()
        bar = tqdm(
            initial=start,
            total=config.steps,
            desc="training",
            unit="step",
            disable=None if self.accelerator.is_main_process else True,
        )
        progress: list[float] = []
        parts: dict[str, Tensor] = {}
        with bar:
            for step, batches in enumerate(self._steps(start), start + 1):
                loss, parts, norm = self._optimize(batches, step)
                progress.append(loss)
                bar.update()
                bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
                if step % config.log_every == 0 or step == config.steps:
                    self._log(
                        step=step,
                        loss=sum(progress) / len(progress),
                        learning_rate=self.schedule.get_last_lr()[0],
                        gradient_norm=norm,
                        **{name: float(value) for name, value in parts.items()},
                    )
                    progress = []
                if step % config.validate_every == 0 or step == config.steps:
                    self._validate(step)
                if step % config.checkpoint_every == 0 or step == config.steps:
                    self._save(step)
        if self.accelerator.is_main_process:
            plot_losses(out / "metrics.jsonl", out / "loss.png")
            with self._averaged(), atomic(out / "model") as temporary:
                self.bare.export(temporary)
        self.accelerator.wait_for_everyone()
        return out / "model"

    def _start(self) -> int:
        """Make or clean the run directory and load the checkpoint to go on from; returns its step."""
        out, main = self.out, self.accelerator.is_main_process
        if main:
            with writing(out):
                out.mkdir(parents=True, exist_ok=True)
                if self.config.overwrite and not self.resume_from:
                    for old in (*out.glob("checkpoint-*"), *(out / n for n in ("metrics.jsonl", "samples"))):
                        remove(old)
                content = {"version": __version__, **asdict(self.config), "task": self.bare.settings}
                (out / "config.json").write_text(json.dumps(content, indent=2, default=str) + "\n")
        start = 0
        if self.resume_from:
            start = int(self.resume_from.name.rpartition("-")[2])
            try:
                self.accelerator.load_state(str(self.resume_from))
            except (OSError, RuntimeError, ValueError, KeyError) as error:
                reason = str(error).splitlines()[0]
                raise InputError(f"{self.resume_from}: does not fit this run: {reason}") from error
            if main:
                _truncate_metrics(out / "metrics.jsonl", start)
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
            persistent_workers=False,
        )
        batches = iter(loader)
        for _ in sampler.steps:
            yield [next(batches) for _ in range(config.accumulation)]

    def _optimize(self, batches: list[dict[str, Tensor]], step: int) -> tuple[float, dict[str, Tensor], float]:
        accelerator = self.accelerator
        self.task.train()
        total, norm = torch.zeros((), device=accelerator.device), 0.0
        for number, batch in enumerate(batches):
            batch = {k: v.to(accelerator.device, non_blocking=True) for k, v in batch.items()}
            with accelerator.accumulate(self.task):
                with accelerator.autocast():
                    loss, parts = self.task(batch)
                total += loss.detach() / len(batches)
                if number == len(batches) - 1:
                    total = accelerator.reduce(total, "mean")
                    if not torch.isfinite(total):
                        raise TrainingError(
                            f"step {step}: the loss is {total.item()}; the last checkpoint is sound:"
                            " resume from it with a lower --learning-rate or --mixed-precision no"
                        )
                accelerator.backward(loss)
                if accelerator.sync_gradients and self.config.clip:
                    norm = float(accelerator.clip_grad_norm_(self.parameters, self.config.clip))
                self.optimizer.step()
                self.optimizer.zero_grad()
        self.schedule.step()
        self.ema.step(self.parameters)
        return total.item(), parts, norm

    def _validate(self, step: int) -> None:
        if self.accelerator.is_main_process:
            with self._averaged(), torch.no_grad():
                figures = self.bare.validate()
                if figures:
                    self._log(step=step, **figures)
                with writing(self.out):
                    (self.out / "samples").mkdir(exist_ok=True)
                    self.bare.preview(self.out / "samples" / f"step-{step:06d}.png")
        self.accelerator.wait_for_everyone()

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

    def _log(self, **figures: float) -> None:
        if not self.accelerator.is_main_process:
            return
        with writing(self.out), (self.out / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(figures) + "\n")
        board = _tensorboard(self.out)
        for name, value in figures.items() if board else ():
            if name != "step":
                board.add_scalar(name, value, figures["step"])

    def _save(self, step: int) -> None:
        """Write `checkpoint-N/` under another name first, so that a kill leaves no broken one."""
        final, temporary = self.out / f"checkpoint-{step}", self.out / f".checkpoint-{step}.tmp"
        main = self.accelerator.is_main_process
        if main:
            remove(temporary)
        self.accelerator.wait_for_everyone()
        try:
            with writing(final):
                self.accelerator.save_state(str(temporary))
                self.accelerator.wait_for_everyone()
                if main:
                    remove(final)
                    temporary.rename(final)
        finally:
            if main:
                remove(temporary)
        if main and self.config.checkpoints_limit:
            for old in checkpoints(self.out)[: -self.config.checkpoints_limit]:
                shutil.rmtree(old, ignore_errors=True)
        self.accelerator.wait_for_everyone()


def checkpoints(out: Path) -> list[Path]:
    """The checkpoint directories of a run, oldest first."""
    found = [p for p in out.glob("checkpoint-*") if p.name.rpartition("-")[2].isdigit()]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def _find_resume(out: Path, config: LoopConfig) -> Path | None:
    there = checkpoints(out)
    if config.resume is None:
        if there and not config.overwrite:
            raise OutputError(f"{out}: holds a run already; --resume latest goes on with it, --overwrite starts anew")
        return None
    if config.resume == "latest":
        return there[-1] if there else None
    path = Path(config.resume)
    if not path.is_dir() or not path.name.rpartition("-")[2].isdigit():
        raise InputError(f"--resume {path}: not a checkpoint directory; give `latest` or a path to checkpoint-N")
    return path


def _truncate_metrics(path: Path, step: int) -> None:
    """Drop what the interrupted run logged after its last checkpoint: those steps are done again."""
    if path.exists():
        kept = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
        with atomic(path) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept))


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:
        return float("inf")  # cut off by the kill


_boards: dict[Path, Any] = {}


def _tensorboard(out: Path) -> Any | None:
    """A TensorBoard writer for the run, or None where TensorBoard is not installed."""
    if out not in _boards:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            _boards[out] = None
        else:
            _boards[out] = SummaryWriter(str(out / "tensorboard"))
    return _boards[out]


def plot_losses(metrics: Path, path: Path) -> None:
    """Draw every logged loss of `metrics.jsonl` against the step into the PNG `path`."""
    from matplotlib.figure import Figure

    curves: dict[str, list[tuple[int, float]]] = {}
    for line in metrics.read_text().splitlines():
        figures = json.loads(line)
        for name in ("loss", "validation_loss"):
            if name in figures:
                curves.setdefault(name, []).append((figures["step"], figures[name]))
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss", yscale="log")
    for name, points in curves.items():
        axes.plot(*zip(*points, strict=True), label=name.replace("_", " "), marker="o" if len(points) < 20 else None)
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=120)
