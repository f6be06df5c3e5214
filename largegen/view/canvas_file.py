"""The progress file of a sampling run as a picture: a cheap linear decode of the canvas, one colour for each latent."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from largegen.errors import LargegenError
from largegen.sampling.windows import plan_windows
from largegen.view.sources import CellSource
from largegen.view.tiles import Cache, Picture

MOST_CELLS = 1024  # a side of the picture: of larger canvases every so many latents is shown
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
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "np") as file:
                metadata = file.metadata() or {}
                step, settings = int(metadata["step"]), _settings(metadata)
                part = file.get_slice("canvas")
                _, channels, rows, cols = part.get_shape()
                rows, cols = settings.get("size", (rows, cols))
                stride = -(-max(rows, cols) // MOST_CELLS)
                latents = np.concatenate(
                    [part[0, :, row : row + 1, :cols][..., ::stride] for row in range(0, rows, stride)], 1
                )
        except (OSError, SafetensorError, LookupError, ValueError, TypeError):
            return None
        factor, colours, note = decode(latents.reshape(channels, -(-rows // stride), -1), decoder)
        counts = settings.get("counts")
        done = sum(counts[:step]) if counts else None
        size = rows * factor, cols * factor
        return cls(
            colours, size, factor * stride, note, step, settings.get("steps"), done, sum(counts) if counts else None
        )

    def picture(self, name: str) -> Picture:
        """Return the canvas as a picture of the image's size."""
        height, width = self.shape
        facts = (("Image", (("file", name), ("size", f"{width} × {height} px"), ("colours", self.note))),)
        return Picture("0", name, "run", CellSource(self.colours, self.cell), width, height, facts=facts, cache=Cache())


def _settings(metadata: dict[str, str]) -> dict[str, Any]:
    """Find steps, size and windows in what a run notes of its settings, see sampling/canvas.py; empty for others."""
    try:
        shape, _, window, kind, stride, _, _, seed, _, _, _, steps = json.loads(json.loads(metadata["fingerprint"])[0])
        _, rows, cols = shape
        found = {"size": (rows, cols), "steps": steps}
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
