"""The state of a training run, which its checkpoints hold: weights, their moving average, optimizer and schedule."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor

from largegen.errors import InputError
from largegen.training.config import LoopConfig
from largegen.training.saved_state import SavedState, write_random, write_state
from largegen.training.task import Task


class TrainingState:
    """A task in the hands of `accelerator`, with AdamW, the schedule of its learning rate and the EMA of its weights.

    Attributes:
        task: the module as the accelerator wraps it, whose call is the loss.
        bare_task: the same without the wrapping.
        parameters: those that are trained.
    """

    def __init__(self, task: Task, config: LoopConfig, accelerator: Accelerator):
        self.accelerator = accelerator
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
        self.bare_task: Task = accelerator.unwrap_model(self.task)
        self.parameters = [p for p in self.bare_task.parameters() if p.requires_grad]
        self.ema = EMAModel(self.parameters, decay=config.ema_decay)
        self.ema.to(accelerator.device)

    def save(self, directory: Path) -> None:
        """Write the state into a directory that is there: every process its own part."""
        if self.accelerator.is_main_process:
            write_state(self._collected(), directory)
        write_random(self._random(), directory, self.accelerator.process_index)

    def _collected(self) -> SavedState:
        optimizer, ema = self.optimizer.state_dict(), self.ema.state_dict()
        tensors = {f"ema.{n}": value for n, value in enumerate(ema.pop("shadow_params"))}
        for n, moments in optimizer["state"].items():
            tensors |= {f"optimizer.{n}.{name}": value for name, value in moments.items()}
        scaler = self.accelerator.scaler
        numbers = {
            "processes": self.accelerator.num_processes,
            "optimizer": optimizer["param_groups"],
            "ema": ema,
            "schedule": {k: v for k, v in self.schedule.state_dict().items() if k != "lr_lambdas"},
            "scaler": scaler.state_dict() if scaler else None,
        }
        weights = self.bare_task.state_dict()
        return SavedState(_on_host(weights), _on_host(tensors), numbers, {})

    def _random(self) -> dict[str, Tensor]:
        device = self.accelerator.device
        states = {"cpu": torch.get_rng_state()}
        if device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(device)
        elif device.type == "mps":
            states["mps"] = torch.mps.get_rng_state()
        return states

    def restore(self, saved: SavedState, checkpoint: Path, config: LoopConfig) -> None:
        """Take over a saved state, but for the settings, which are those of `config`.

        Raises:
            InputError: For a state of another form, such as that of another network.
        """
        try:
            self._restore(saved)
        except (RuntimeError, ValueError, KeyError, TypeError, IndexError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{checkpoint}: does not fit this run: {reason}") from error
        self.ema.to(self.accelerator.device)
        self.ema.decay = config.ema_decay
        rate, schedule = config.learning_rate, self.schedule
        schedule.base_lrs = [rate] * len(schedule.base_lrs)
        for group, factor in zip(self.optimizer.param_groups, schedule.lr_lambdas, strict=True):
            lr = rate * factor(schedule.last_epoch)
            group.update(lr=lr, initial_lr=rate, weight_decay=config.weight_decay)

    def _restore(self, saved: SavedState) -> None:
        numbers = saved.numbers
        self.bare_task.load_state_dict(saved.model)
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in saved.state.items():
            if name.startswith("optimizer."):
                _, number, moment = name.split(".", 2)
                moments.setdefault(int(number), {})[moment] = value
        self.optimizer.load_state_dict({"state": moments, "param_groups": numbers["optimizer"]})
        averaged = [saved.state[f"ema.{n}"] for n in range(len(self.parameters))]
        for ours, theirs in zip(self.parameters, averaged, strict=True):
            if ours.shape != theirs.shape:
                raise ValueError(f"an averaged weight has the shape {tuple(theirs.shape)}, not {tuple(ours.shape)}")
        self.ema.load_state_dict({**numbers["ema"], "shadow_params": averaged})
        self.schedule.load_state_dict({**numbers["schedule"], "lr_lambdas": [None] * len(self.schedule.lr_lambdas)})
        if self.accelerator.scaler and numbers["scaler"]:
            self.accelerator.scaler.load_state_dict(numbers["scaler"])
        for device, state in saved.random.items():
            if device == "cpu":
                torch.set_rng_state(state)
            elif device == self.accelerator.device.type == "cuda":
                torch.cuda.set_rng_state(state, self.accelerator.device)
            elif device == self.accelerator.device.type == "mps":
                torch.mps.set_rng_state(state)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the EMA weights in place of the last ones, in evaluation mode and without gradients."""
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        self.bare_task.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.ema.restore(self.parameters)
            self.bare_task.train()


def _on_host(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
