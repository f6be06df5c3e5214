"""The losses of a training run, read from its log as it grows."""

import json
import math
from pathlib import Path

MOST_POINTS = 300  # of a curve

Curve = list[tuple[int, float]]  # steps and losses


class Losses:
    """The curves in a `metrics.jsonl`, of which each look reads only what is new."""

    def __init__(self, path: Path) -> None:
        self.step = 0  # the last that is logged
        self.changed = 0.0  # when, in seconds
        self._path, self._read = path, 0
        self._curves: dict[str, Curve] = {"loss": [], "validation_loss": []}

    def read(self) -> None:
        """Read the lines that have come since the last time."""
        try:
            stat = self._path.stat()
            if stat.st_size < self._read:  # the run has begun again, or gone back to a checkpoint
                self.__init__(self._path)  # type: ignore[misc]
            with self._path.open("rb") as file:
                file.seek(self._read)
                new = file.read()
        except OSError:
            return
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            self._take(line)
        if whole:
            self.changed = stat.st_mtime

    def _take(self, line: bytes) -> None:
        try:
            figures = json.loads(line)
            step = int(figures["step"])
        except (ValueError, LookupError, TypeError):
            return
        self.step = max(self.step, step)
        for name, curve in self._curves.items():
            value = figures.get(name)
            if isinstance(value, int | float) and math.isfinite(value):
                curve.append((step, float(value)))

    def curves(self) -> dict[str, Curve]:
        """Return the curves, thinned to what a small drawing can show."""
        return {name: _thinned(curve) for name, curve in self._curves.items() if curve}


def _thinned(curve: Curve) -> Curve:
    """Keep the means of neighbours where there are too many points."""
    size = -(-len(curve) // MOST_POINTS)
    parts = [curve[start : start + size] for start in range(0, len(curve), size)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]
