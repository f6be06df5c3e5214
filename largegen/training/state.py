"""The state of a training run, which its checkpoints hold: weights, their moving average, optimizer and schedule."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel

from largegen.training.checkpoints import load_checkpoint, step_of
from largegen.training.config import LoopConfig
from largegen.training.task import Task

log = logging.getLogger(__name__)


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
        accelerator.register_for_checkpointing(self.schedule, self.ema)

    def load(self, checkpoint: Path, config: LoopConfig) -> int:
        """Load a checkpoint, but for the settings, which are those of `config`; return its step.

        Raises InputError for a checkpoint that is damaged or of another form.
        """
        load_checkpoint(self.accelerator, checkpoint)
        self.ema.to(self.accelerator.device)
        self.ema.decay = config.ema_decay
        rate, schedule = config.learning_rate, self.schedule
        schedule.base_lrs = [rate] * len(schedule.base_lrs)
        for group, factor in zip(self.optimizer.param_groups, schedule.lr_lambdas, strict=True):
            lr = rate * factor(schedule.last_epoch)
            group.update(lr=lr, initial_lr=rate, weight_decay=config.weight_decay)
        step = step_of(checkpoint)
        log.info("resuming after step %d from %s", step, checkpoint)
        return step

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
