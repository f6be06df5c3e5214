"""The figures of a training run: a line of JSON per report, TensorBoard where it is installed, and a plot."""

import json
import math
from pathlib import Path
from typing import Any

from largegen.runtime.files import atomic, write_errors


class Metrics:
    """The log `metrics.jsonl` of the run in `out`, which resumes after step `start`.

    What an interrupted run logged of later steps is dropped, because those steps are done again.
    """

    def __init__(self, out: Path, start: int):
        self.path = out / "metrics.jsonl"
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
            kept = [line for line in lines if _step_of(line) <= start]
            with atomic(self.path) as temporary:
                temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        self._board = _tensorboard(out, start)

    def log(self, step: int, **figures: float) -> None:
        """Report `figures` of an optimizer step; one that is not finite is null in the file."""
        line = {"step": step} | {name: value if math.isfinite(value) else None for name, value in figures.items()}
        with write_errors(self.path):
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            if self._board:
                for name, value in figures.items():
                    self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Close TensorBoard's file."""
        if self._board:
            with write_errors(self.path):
                self._board.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a `metrics.jsonl`."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def plot_losses(lines: list[dict[str, Any]], path: Path) -> None:
    """Draw every loss in the lines of a `metrics.jsonl` against the step into the PNG `path`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss", yscale="log")
    for name in ("loss", "validation_loss"):
        points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
        if points:
            axes.plot(
                *zip(*points, strict=True), label=name.replace("_", " "), marker="o" if len(points) < 20 else None
            )
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf  # cut off by a kill


def _tensorboard(out: Path, start: int) -> Any | None:
    """Open a TensorBoard writer for the run, or None where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    with write_errors(out):
        return SummaryWriter(str(out / "tensorboard"), purge_step=start + 1)
