"""A run as it goes, seen through the files that it saves: it knows nothing of that, and is not slowed by it."""

import json
import logging
import time
from pathlib import Path
from typing import Any, Protocol

from largegen.slides.resolution import PIXELS
from largegen.view.canvas_file import CanvasFile
from largegen.view.losses import Losses
from largegen.view.scene import Scene
from largegen.view.sources import SlideSource
from largegen.view.tiles import Cache, Picture

log = logging.getLogger(__name__)

REST_RATIO = 50  # a look takes at most a 50th of the time, however often the run saves
PARTS = ("", ".draft", ".seams")  # of `largegen zoom`, each with progress of its own


class Run(Protocol):
    """A run that is looked at."""

    title: str

    def look(self) -> dict[str, Any]:
        """Look at the files anew: `state`, and what else is known of `step`, `steps`, `left_s`, `version`, ..."""

    def scene(self) -> Scene:
        """Return what the last look saw; without a picture as long as there is none."""


def follow(path: Path, decoder: Path | None = None) -> Run:
    """Follow the run that makes an image, or the training run of a directory, which need not be there yet.

    Args:
        path: what the run makes, its --out.
        decoder: file of the model's linear decoder, for the colours of a canvas.
    """
    if path.suffix and not path.is_dir():
        return ImageRun(path, decoder)
    return TrainingRun(path)


class Pace:
    """How fast steps are done, from the times at which some were seen."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None
        self._last: tuple[int, float] | None = None

    def saw(self, step: int, when: float) -> None:
        """Note that a step was done by a time, in seconds."""
        if self._last is None or step < self._last[0]:  # a run that begins again
            self._first = step, when
        self._last = step, when

    def left_s(self, steps: int) -> float | None:
        """Estimate the seconds left of so many steps; None where too little was seen."""
        if self._first is None or self._last is None or self._last[0] <= self._first[0]:
            return None
        (first, since), (last, now) = self._first, self._last
        return round((steps - last) * (now - since) / (last - first), 1)


class ImageRun:
    """A run of `generate`, `zoom` or the like: its canvas after the last step that it saved."""

    def __init__(self, path: Path, decoder: Path | None) -> None:
        self.title, self._path, self._decoder = path.name, path, decoder
        self._began, self._pace, self._version, self._next = time.time(), Pace(), 0, 0.0
        self._seen: tuple[Path, int] | None = None
        self._said: dict[str, Any] = {"state": "waiting"}
        self._picture: Picture | None = None

    def look(self) -> dict[str, Any]:
        """Look at the files anew, as `Run.look` says."""
        partial = self._path.with_name(f".{self._path.name}.partial")
        found = [file for part in PARTS if (file := partial.with_name(partial.name + part)).is_file()]
        newest = max(found, key=lambda file: file.stat().st_mtime_ns, default=None)
        if newest is None:
            made = self._path.is_file() and (self._path.stat().st_mtime >= self._began or self._picture is not None)
            state = "done" if made else "decoding" if self._picture else "waiting"
            return self._said | {"state": state}
        saved, began = (newest, newest.stat().st_mtime_ns), time.monotonic()
        if saved != self._seen and began >= self._next and (canvas := CanvasFile.read(newest, self._decoder)):
            if self._seen is None or newest != self._seen[0]:
                self._pace = Pace()
            self._seen, self._version = saved, self._version + 1
            self._pace.saw(canvas.step, newest.stat().st_mtime)
            self._picture = canvas.picture(self._path.name)
            part = newest.name.removeprefix(partial.name).removeprefix(".")
            self._said = {
                **{"state": "sampling", "version": self._version, "part": part, "step": canvas.step},
                **{"steps": canvas.steps, "windows_done": canvas.windows_done, "windows": canvas.windows},
                **{"left_s": self._pace.left_s(canvas.steps) if canvas.steps else None},
            }
            self._next = time.monotonic() + REST_RATIO * (time.monotonic() - began)
        return self._said

    def scene(self) -> Scene:
        """Return the canvas, in colours."""
        return Scene(self.title, (self._picture,) if self._picture else (), (), PIXELS)


class TrainingRun:
    """A run of a training command: its losses, and the samples that it drew last."""

    def __init__(self, folder: Path) -> None:
        self.title, self._folder = folder.name, folder
        self._losses, self._pace = Losses(folder / "metrics.jsonl"), Pace()
        self._sample: Path | None = None
        self._version = 0
        self._picture: Picture | None = None

    def look(self) -> dict[str, Any]:
        """Look at the files anew, as `Run.look` says."""
        self._losses.read()
        self._find_sample()
        step, steps = self._losses.step, self._steps()
        if step:
            self._pace.saw(step, self._losses.changed)
        done = step and (self._folder / "model").is_dir() and steps and step >= steps
        return {
            **{"state": "done" if done else "training" if step else "waiting", "version": self._version},
            **{"step": step, "steps": steps, "left_s": self._pace.left_s(steps) if steps else None},
            "losses": self._losses.curves(),
        }

    def scene(self) -> Scene:
        """Return the sheet of samples that was drawn last."""
        return Scene(self.title, (self._picture,) if self._picture else (), (), PIXELS)

    def _steps(self) -> int | None:
        try:
            return int(json.loads((self._folder / "config.json").read_text(encoding="utf-8"))["steps"])
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def _find_sample(self) -> None:
        sample = max((self._folder / "samples").glob("step-*.png"), default=None)
        if sample is None or sample == self._sample:
            return
        from largegen.errors import SlideError
        from largegen.slides.slide import open_slide

        try:
            slide = open_slide(sample, check=False)
        except SlideError:  # is just being written
            return
        self._sample, self._version = sample, self._version + 1
        size = slide.width, slide.height
        self._picture = Picture("0", sample.name, "run", SlideSource(slide), *size, cache=Cache())
