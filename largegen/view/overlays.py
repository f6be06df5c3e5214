"""What can be laid over pictures: grids, lines and cells, computed when they are first asked for."""

import base64
import io
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from largegen.errors import LargegenError

Box = tuple[float, float, float, float]  # x, y, width, height in the plane of a scene


@dataclass
class Overlay:
    """Something to lay over pictures."""

    key: str  # names it in addresses; unique in its scene
    name: str  # for people
    about: str  # one line: what it shows, and by what rule
    make: Callable[[], dict[str, Any]]  # what `data` gives
    slow: bool = False  # whether making it takes more than a moment
    _made: dict[str, Any] | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def data(self) -> dict[str, Any]:
        """Return what the page draws; `error` says why it cannot be had. Computed once."""
        with self._lock:
            if self._made is None:
                try:
                    self._made = self.make()
                except LargegenError as error:
                    self._made = {"error": str(error)}
            return self._made


def grid_data(xy: tuple[float, float], side: float, step: float, cols: int, rows: int) -> dict[str, Any]:
    """Describe a grid of squares: the corner of the first, their side, and from one to the next; plane px."""
    return {"kind": "grid", "xy": xy, "side": side, "step": step, "cols": cols, "rows": rows}


def lines_data(rows: list[float], cols: list[float], box: Box) -> dict[str, Any]:
    """Describe lines across a box, before rows and columns of the plane."""
    return {"kind": "lines", "rows": rows, "cols": cols, "box": box}


def mask_data(mask: np.ndarray, box: Box, legend: str) -> dict[str, Any]:
    """Describe a mask over a box; mask: (h, w) bool, tinted where it is True."""
    return {"kind": "mask", "image": png(mask.astype(np.uint8) * 255), "box": box, "legend": legend}


def kept_data(kept: np.ndarray, box: Box) -> dict[str, Any]:
    """Describe tiles over a box, (rows, cols) bool: what is skipped is veiled."""
    shown = f"{int(kept.sum())} of {kept.size} kept"
    return {"kind": "kept", "image": png(kept.astype(np.uint8) * 255), "box": box, "legend": shown}


def colours_data(colours: np.ndarray, box: Box, legend: str) -> dict[str, Any]:
    """Describe cells of given colours over a box; colours: (rows, cols, 3) uint8."""
    return {"kind": "colours", "image": png(colours), "box": box, "legend": legend}


def heat_data(values: np.ndarray, box: Box, unit: str, legend: str, mean: float) -> dict[str, Any]:
    """Describe numbers over a box; values: (rows, cols), NaN where there is none; mean: of them."""
    known = np.isfinite(values)
    low, high = (float(f(values[known])) if known.any() else 0.0 for f in (np.min, np.max))
    shown = np.zeros(values.shape, np.uint8)
    shown[known] = np.round(1 + 254 * (values[known] - low) / max(high - low, 1e-9))
    return {
        **{"kind": "heat", "image": png(shown), "box": box, "low": low, "high": high},
        **{"unit": unit, "legend": legend, "mean": mean},
    }


def png(pixels: np.ndarray) -> str:
    """Encode (h, w) or (h, w, 3) uint8 as the `data:` address of a PNG."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
