"""The pixels of an open file: any part of its pyramid as colours, at any downsample.

Places are those of slide.py: squares of a level-0 pixel's shorter side.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from largegen.runtime.say import say_once
from largegen.slides.colour import WHITE, to_rgb
from largegen.slides.pyramid import thumbnail_size, with_margin
from largegen.slides.readers import Reader

MAX_READ_PX = 2**24  # level pixels decoded at once; larger regions are read in bands


class Pixels:
    """What a reader gives, resampled and as colours."""

    def __init__(
        self,
        path: Path,
        reader: Reader,
        size: tuple[int, int],
        downsamples: Sequence[tuple[float, float]],
        scene: bool,
        background: tuple[int, int, int] | None,
    ) -> None:
        """Take over an open file.

        Args:
            path: the file, for messages.
            reader: of the file.
            size: width and height of level 0.
            downsamples: level-0 pixels per pixel of each level, (x, y).
            scene: whether it shows the Earth, in a part of its samples' range.
            background: the colour behind what is transparent; None for white.
        """
        self._path, self._reader, self._size = path, reader, size
        self._downsamples, self._scene, self._background = downsamples, scene, background
        self._range: tuple[float, float] | None = None

    def read(self, x: float, y: float, width: int, height: int, downsample: float) -> np.ndarray:
        """Read a rectangle whose pixels' centres lie inside, in bands if it is large; arguments as `Slide.read`.

        Returns:
            (height, width, 3) uint8 RGB.
        """
        from PIL import Image

        level = self._level_for(downsample)
        scale_x, scale_y = (downsample / d for d in self._downsamples[level])
        if width * scale_x * height * scale_y > MAX_READ_PX and height > 1:
            half = height // 2
            parts = ((y, half), (y + half * downsample, height - half))
            return np.concatenate([self.read(x, start, width, rows, downsample) for start, rows in parts])
        left, top = x / self._downsamples[level][0], y / self._downsamples[level][1]
        if scale_x == scale_y == 1 and left % 1 == top % 1 == 0 and self._reader.starts_exactly(level):
            x0, y0 = int(left), int(top)
            return self._read_level(level, x0, y0, x0 + width, y0 + height)[0]
        (x0, x1), (y0, y1) = with_margin(left, width, scale_x), with_margin(top, height, scale_y)
        pixels, from_x, from_y = self._read_level(level, x0, y0, x1, y1)
        left, top = left - from_x, top - from_y
        box = (left, top, left + width * scale_x, top + height * scale_y)
        return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS, box))

    def _read_level(self, level: int, x0: int, y0: int, x1: int, y1: int) -> tuple[np.ndarray, float, float]:
        """Read [x0, x1) x [y0, y1) of a level as RGB, its edge repeated outside; and where it starts."""
        width, height = self._reader.levels[level]
        left, top = min(max(x0, 0), width - 1), min(max(y0, 0), height - 1)
        right, bottom = max(min(x1, width), left + 1), max(min(y1, height), top + 1)
        raw, x, y = self._reader.read(level, left, top, right - left, bottom - top)
        pixels = self._to_rgb(raw)
        pad_x, pad_y = (max(left - x0, 0), max(x1 - right, 0)), (max(top - y0, 0), max(y1 - bottom, 0))
        if any(pad_x + pad_y):
            pixels = np.pad(pixels, (pad_y, pad_x, (0, 0)), mode="edge")
        return np.ascontiguousarray(pixels), x - pad_x[0], y - pad_y[0]

    def _to_rgb(self, raw: np.ndarray) -> np.ndarray:
        """Convert bands as stored to (h, w, 3) uint8, on the named colour or white where there is no opacity."""
        reader = self._reader
        shown = self._shown_range() if raw.dtype != np.uint8 or reader.white else None
        behind = (self._background or WHITE) if reader.has_alpha else None
        full = None if shown is None or self._scene else int(shown[1])
        return to_rgb(raw, shown, behind, full=full, premultiplied=reader.premultiplied)

    def _shown_range(self) -> tuple[float, float]:
        """Find the values shown as 0 and 255: for slides 0 and white, for scenes the 2nd and 98th percentile.

        White is what the file says, else the largest number of the fewest bits, 8 to 16, that hold all that is seen:
        cameras of 10 to 14 bits are stored in 16. Scenes store reflectance in a small part of the 16 bits, or as
        numbers of any range. The percentiles are those of a thumbnail's red, green and blue together: one stretch for
        every region and band.
        """
        if self._range is None and self._reader.white and not self._scene:
            self._range = (0.0, float(self._reader.white))
        elif self._range is None:
            raw = self.sample(1024)
            data = raw[raw[..., -1] > 0][:, :-1] if self._reader.has_alpha else raw
            if self._scene:
                low, high = np.percentile(data, (2, 98)) if data.size else (0, 65535)
                self._range = (float(low), float(high if high > low else low + 1))
            else:
                largest = int(data.max(initial=0))
                bits = next(n for n in (8, 10, 12, 14, 16) if largest < 2**n)
                if bits < 16:
                    say_once(f"{self._path}: taken for {bits} bits in 16, as nothing in it is brighter than {largest}")
                self._range = (0.0, float(2**bits - 1))
        return self._range

    def sample(self, max_px: int) -> np.ndarray:
        """Read the bands as stored at the centres of the thumbnail's pixels: (h, w, bands), no filter."""
        width, height, downsample = thumbnail_size(self._size, max_px)
        level = self._level_for(downsample)
        level_width, level_height = self._reader.levels[level]
        columns = ((np.arange(width) + 0.5) * level_width / width).astype(int)
        rows = ((np.arange(height) + 0.5) * level_height / height).astype(int)
        if level_width * level_height <= MAX_READ_PX:
            whole, _, _ = self._reader.read(level, 0, 0, level_width, level_height)
            return np.asarray(whole[rows[:, None], columns])
        lines = [self._reader.read(level, 0, int(row), level_width, 1)[0][0, columns] for row in rows]
        return np.stack(lines)

    def _level_for(self, downsample: float) -> int:
        """Choose the smallest level that is not coarser than `downsample`."""
        return max(i for i, d in enumerate(self._downsamples) if i == 0 or max(d) <= downsample * 1.01)
