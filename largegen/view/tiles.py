"""Pictures as deep zoom: levels of tiles, each cut on demand as JPEG, and kept in a cache bounded in bytes."""

import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

TILE_PX = 256
JPEG_QUALITY = 90
CACHE_BYTES = 2**26  # 64 MB: some 3000 tiles of tissue


class Source(Protocol):
    """What tiles are cut from: an open slide, or whatever reads as one."""

    def read(self, x: float, y: float, width: int, height: int, downsample: float = 1.0) -> np.ndarray:
        """Read a rectangle as `Slide.read` does: (height, width, 3) uint8."""


class Cache:
    """What was made last, by key, as long as it is no more than so many bytes in all; for any number of threads."""

    def __init__(self, most_bytes: int = CACHE_BYTES) -> None:
        self.bytes = 0  # that are kept now
        self._most = most_bytes
        self._kept: OrderedDict[Hashable, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        """Return what is kept under a key, else make and keep it; two threads may make the same at once."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = make()
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self.bytes += len(made)
            while self.bytes > self._most:
                self.bytes -= len(self._kept.popitem(last=False)[1])
        return made


@dataclass(frozen=True)
class Picture:
    """A rectangle of a source as an image of its own, and where it lies in the plane that a scene's pictures share."""

    key: str  # names it in addresses; unique in its scene
    name: str  # for people: the file's name
    role: str  # "result", "reference", "guide", "level", "slide", "embeddings" or "run"
    source: Source
    width: int  # px
    height: int
    xy: tuple[float, float] = (0.0, 0.0)  # its corner in the source, level-0 px
    downsample: float = 1.0  # the source's level-0 px per px
    box: tuple[float, float, float, float] | None = None  # x, y, width, height in the plane; None: the plane itself
    facts: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ()  # titles, and under each what is known: name, value
    cache: Cache = field(default_factory=Cache, compare=False)

    @property
    def levels(self) -> int:
        """The number of levels: 0 is one tile, each further one twice as fine, the last has all pixels."""
        return max(0, (max(self.width, self.height) - 1) // TILE_PX).bit_length() + 1

    def size(self, level: int) -> tuple[int, int]:
        """Return (width, height) of a level in its px."""
        shrink = 2 ** (self.levels - 1 - level)
        return -(-self.width // shrink), -(-self.height // shrink)

    def grid(self, level: int) -> tuple[int, int]:
        """Return (columns, rows) of a level's tiles."""
        width, height = self.size(level)
        return -(-width // TILE_PX), -(-height // TILE_PX)

    def has(self, level: int, col: int, row: int) -> bool:
        """Tell whether there is such a tile."""
        if not 0 <= level < self.levels:
            return False
        cols, rows = self.grid(level)
        return 0 <= col < cols and 0 <= row < rows

    def tile(self, level: int, col: int, row: int) -> bytes:
        """Return a tile that there is as JPEG: 256 px a side, less at the right and lower edge.

        Raises:
            SlideError: the source is damaged.
        """
        return self.cache.get((id(self), level, col, row), lambda: jpeg(self._cut(level, col, row)))

    def _cut(self, level: int, col: int, row: int) -> np.ndarray:
        width, height = self.size(level)
        left, top = col * TILE_PX, row * TILE_PX
        scale = self.downsample * 2 ** (self.levels - 1 - level)
        size = min(TILE_PX, width - left), min(TILE_PX, height - top)
        return self.source.read(self.xy[0] + left * scale, self.xy[1] + top * scale, *size, scale)

    def thumbnail(self, most_px: int = 512) -> bytes:
        """Return the whole picture as JPEG, its longer side `most_px` at most."""
        shrink = max(1.0, max(self.width, self.height) / most_px)
        size = max(1, round(self.width / shrink)), max(1, round(self.height / shrink))
        return jpeg(self.source.read(*self.xy, *size, self.downsample * shrink))


def jpeg(pixels: np.ndarray) -> bytes:
    """Encode (h, w, 3) uint8 as JPEG with its colours kept sharp."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return content.getvalue()
