"""A task of a few weights for tests of the training loop, and the settings of a short run."""

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

from largegen.training.config import LoopConfig
from largegen.training.log import read_metrics
from largegen.training.sampler import sample_rng
from largegen.training.task import Task


class Line(Dataset):
    """y = sum(x) of 4 random numbers."""

    def __getitem__(self, sample):
        x = torch.from_numpy(sample_rng(0, sample).standard_normal(4, "float32"))
        return {"x": x, "y": x.sum()[None]}


class LineTask(Task):
    """A linear layer behind dropout; `spoil` may change the loss of a forward pass, counted from 1."""

    def __init__(self, spoil=lambda number, loss: loss, dropout=0.1):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Dropout(dropout), nn.Linear(4, 1))
        self.dataset, self.settings = Line(), {"kind": "line"}
        self.spoil, self.passes, self.seen = spoil, 0, []

    def forward(self, batch):
        self.passes += 1
        loss = (self.net(batch["x"]) - batch["y"]).square().mean()
        return self.spoil(self.passes, loss), {"size": torch.tensor(float(len(batch["x"])))}

    def validate(self):
        self.seen.append(self.net[1].weight.detach().clone())
        return {"validation_loss": 1.0}

    def preview(self, path):
        Image.new("RGB", (4, 4)).save(path)

    def export(self, directory):
        directory.mkdir()
        torch.save(self.net.state_dict(), directory / "net.pt")


class Stop(Exception):
    pass


def stop_at(number):
    def spoil(passes, loss):
        if passes == number:
            raise Stop
        return loss

    return spoil


def times_at(number, factor):
    return lambda passes, loss: loss * factor if passes == number else loss


def config(**changes):
    """The settings of a short run."""
    usual = {"steps": 8, "batch_size": 8, "warmup_steps": 2, "learning_rate": 0.05, "workers": 0, "device": "cpu"}
    every = {"log_every": 1, "checkpoint_every": 2, "validate_every": 4, "mixed_precision": "no"}
    return LoopConfig(**{**usual, **every, **changes})


def losses(out):
    return [line["loss"] for line in read_metrics(out / "metrics.jsonl") if "loss" in line]


def names(out):
    return sorted(path.name for path in out.iterdir())


def forget_accelerate():
    """Forget the settings of a finished run: accelerate keeps them, one set per process."""
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
