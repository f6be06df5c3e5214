"""The progress file of a sampling run as a picture: a cheap linear decode of the canvas, one colour for each latent."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from largegen.errors import LargegenError
from largegen.sampling.windows import plan_windows
from largegen.view.sources import CellSource
from largegen.view.tiles import Cache, Picture

MOST_CELLS = 1024  # a side of the picture: of larger canvases every so many latents is shown
HEADER_BYTES = 4096  # at the start of a file of rows
FACTOR = 8  # px per latent, where no decoder tells


@dataclass(frozen=True)
class CanvasFile:
    """What a progress file holds."""

    colours: np.ndarray  # (rows, cols, 3) uint8
    shape: tuple[int, int]  # of the image, px
    cell: float  # side of a colour's square, px
    note: str  # what the colours are
    step: int  # steps done
    steps: int | None = None  # in all; None: not known
    windows_done: int | None = None
    windows: int | None = None

    @classmethod
    def read(cls, path: Path, decoder: Path | None) -> "CanvasFile | None":
        """Read a progress file; None for one that is none, or is just being replaced."""
        from safetensors import SafetensorError

        try:
            with path.open("rb") as file:
                stored = file.read(1) == b"{"
            found = _of_rows(path) if stored else _of_tensors(path)
        except (OSError, SafetensorError, LookupError, ValueError, TypeError):
            return None
        factor, colours, note = decode(found.latents, decoder)
        counts, rows, cols = found.settings.get("counts"), *found.size
        done = sum(counts[: found.step]) if counts else None
        return cls(
            colours=colours,
            shape=(rows * factor, cols * factor),
            cell=factor * found.stride,
            note=note,
            step=found.step,
            steps=found.settings.get("steps"),
            windows_done=done,
            windows=sum(counts) if counts else None,
        )

    def picture(self, name: str) -> Picture:
        """Return the canvas as a picture of the image's size."""
        height, width = self.shape
        facts = (("Image", (("file", name), ("size", f"{width} × {height} px"), ("colours", self.note))),)
        return Picture("0", name, "run", CellSource(self.colours, self.cell), width, height, facts=facts, cache=Cache())


class _Found(NamedTuple):
    latents: np.ndarray  # (C, h, w): every so many of the canvas
    stride: int
    size: tuple[int, int]  # (H, W) of the image, in latents
    step: int
    settings: dict[str, Any]


def _of_tensors(path: Path) -> _Found:
    """Read a canvas that is saved whole, see sampling/resume.py."""
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        metadata = file.metadata() or {}
        part = file.get_slice("canvas")
        settings = _settings(metadata["fingerprint"])
        rows, cols = settings.get("size", part.get_shape()[2:])
        stride = -(-max(rows, cols) // MOST_CELLS)
        lines = [part[0, :, row : row + 1, :cols][..., ::stride] for row in range(0, rows, stride)]
        return _Found(np.concatenate(lines, 1), stride, (rows, cols), int(metadata["step"]), settings)


def _of_rows(path: Path) -> _Found:
    """Read a canvas that is kept in a file of rows, see sampling/stored_canvas.py: `path` notes what is finished."""
    state = json.loads(path.read_text(encoding="utf-8"))
    settings = _settings(state["fingerprint"])
    channels, (rows, cols), around = settings["channels"], settings["size"], settings["around"]
    file = path.with_name(f"{path.name}.rows")
    one = 4 * channels * around[0] * around[1]
    fields, rest = divmod(file.stat().st_size - HEADER_BYTES, 2 * one)  # in two generations each
    if rest or not fields or state["step"] < 0:
        raise ValueError("not a file of rows, or not begun")
    at = HEADER_BYTES + state["generation"] * fields * one
    canvas = np.memmap(file, np.float32, "r", at, (around[0], channels, around[1]))
    stride = -(-max(rows, cols) // MOST_CELLS)
    latents = np.array(canvas[:rows:stride, :, :cols:stride]).transpose(1, 0, 2)
    return _Found(latents, stride, (rows, cols), state["step"], settings)


def _settings(fingerprint: str) -> dict[str, Any]:
    """Find steps, size and windows in what a run notes of its settings, see sampling/canvas.py; empty for others."""
    try:
        shape, around, window, kind, stride, _, _, seed, _, _, _, steps, *_ = json.loads(json.loads(fingerprint)[0])
        channels, rows, cols = shape
        found = {"channels": channels, "size": (rows, cols), "around": around, "steps": steps}
        plan, _ = plan_windows(kind, rows, cols, window, stride, seed, steps, None)
        return found | {"counts": [len(places) for places in plan]}
    except (LookupError, ValueError, TypeError, LargegenError):
        return {}


def decode(latents: np.ndarray, decoder: Path | None) -> tuple[int, np.ndarray, str]:
    """Give latents colours.

    Args:
        latents: (C, h, w) float32.
        decoder: file of a linear decoder.

    Returns:
        Pixels per latent; (h, w, 3) uint8, the mean colour of each latent's pixels; and what these colours are.
    """
    channels, rows, cols = latents.shape
    flat = latents.reshape(channels, -1).T.astype(np.float64)
    if decoder is not None and decoder.is_file():
        from safetensors.numpy import load_file

        fields = load_file(decoder)
        if fields["weight"].shape[-1] == channels:
            weight, bias = fields["weight"].mean((1, 2)), fields["bias"].mean((1, 2))
            values = (flat @ weight.T + bias + 1) / 2
            note = "nearly those of the image, with the noise that is still in it"
            return fields["weight"].shape[1], _uint8(values, rows, cols), note
    axes = np.linalg.eigh(np.cov(flat.T))[1][:, ::-1][:, :3] if channels > 1 else np.ones((1, 1))
    values = (flat - flat.mean(0)) @ axes
    values = np.resize(values, (len(values), 3)) if values.shape[1] == 1 else values
    values = np.pad(values, ((0, 0), (0, 3 - values.shape[1])))
    note = "the latents' main directions, not those of the image: the model has no linear decoder"
    return FACTOR, _uint8(0.5 + values / (6 * values.std() + 1e-9), rows, cols), note


def _uint8(values: np.ndarray, rows: int, cols: int) -> np.ndarray:
    found: np.ndarray = (values.clip(0, 1) * 255).round().astype(np.uint8).reshape(rows, cols, 3)
    return found
