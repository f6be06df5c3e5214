"""What the loop trains: the interface of a task, that is, a network with its loss, its data and its figures."""

from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset


class Task(nn.Module):
    """What is trained: a module whose forward is the loss, with its data and its ways to look at the result.

    dataset: maps a sample number to a dict of tensors, purely (see crops.py). `forward(batch)` returns the scalar
    loss and a dict of scalar tensors to log.
    """

    dataset: Dataset[dict[str, Any]]
    settings: dict[str, Any]  # what it is and how much data it has, for config.json and --dry-run
    eval_every: int = 0  # steps between calls of `evaluate`; 0 for none

    def prepare(self) -> None:
        """Do the long work that training needs, in every process, once the run is known to be one that can be made."""

    def validate(self) -> dict[str, float]:
        """Compute figures on the held-out data, with the EMA weights in place."""
        return {}

    def evaluate(self) -> dict[str, float]:
        """Compute figures of samples, which take longer than `validate`, with the EMA weights in place."""
        return {}

    def preview(self, path: Path) -> None:
        """Write an image at `path` (.png) that shows how good the network is now."""

    def export(self, directory: Path) -> None:
        """Write the trained networks, in the form that the other commands load."""
        raise NotImplementedError
