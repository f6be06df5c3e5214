"""A DeepZoom image: a small XML file, `a.dzi`, and beside it the folder `a_files` of tiles for each level."""

import threading
import xml.etree.ElementTree as ET
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from largegen.errors import SlideError, UnreadablePixels, first_line
from largegen.slides.find import tiles_directory
from largegen.slides.image_info import read_provenance

if TYPE_CHECKING:
    import PIL.Image


XML_BYTES = 2**16
MAX_TILE_PX = 8192
SMALLEST_LEVEL_PX = 64  # shorter side; of smaller levels the size, rounded up, says little of the scale
KEPT_BYTES = 2**25  # of decoded tiles
FORMATS = ("png", "jpg", "jpeg")


class DeepZoomReader:
    """A DeepZoom tree; levels and tiles are read as they are needed. See readers.py for the interface."""

    name = "deepzoom"
    has_alpha = False  # laid on white
    premultiplied = False
    white: int | None = None

    def __init__(self, path: Path, check: bool = True):
        self.path = path
        (width, height), self._tile_px, self._overlap_px, self._format = _read_description(path)
        deepest = (max(width, height) - 1).bit_length()
        sizes = [(-(-width >> k), -(-height >> k)) for k in range(deepest + 1)]
        self.levels = [size for k, size in enumerate(sizes) if k == 0 or min(size) >= SMALLEST_LEVEL_PX]
        self._folders = [tiles_directory(path) / str(deepest - k) for k in range(len(self.levels))]
        self.properties = {"openslide.vendor": "deepzoom"}
        self.provenance = read_provenance(path) or {}
        self.lossy = self._format != "png"
        self._kept: OrderedDict[Path, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()
        for level, (width, height) in enumerate(self.levels if check else ()):
            self.read(level, 0, 0, 1, 1)
            self.read(level, width - 1, height - 1, 1, 1)

    def starts_exactly(self, level: int) -> bool:
        """Whether `read` starts at the pixel asked for."""
        return True

    def read(self, level: int, x: int, y: int, width: int, height: int) -> tuple[np.ndarray, float, float]:
        """Read (height, width, 3) uint8 inside `level`, in its pixels; and where it starts."""
        side, out = self._tile_px, np.empty((height, width, 3), np.uint8)
        for row in range(y // side, (y + height - 1) // side + 1):
            for col in range(x // side, (x + width - 1) // side + 1):
                # A tile shows its own square, and of its neighbours' a margin of the overlap.
                tile = self._tile(level, row, col)[min(row, 1) * self._overlap_px :, min(col, 1) * self._overlap_px :]
                top, left = max(y, row * side), max(x, col * side)
                bottom, right = min(y + height, (row + 1) * side), min(x + width, (col + 1) * side)
                part = tile[top - row * side : bottom - row * side, left - col * side : right - col * side]
                out[top - y : bottom - y, left - x : right - x] = part
        return out, float(x), float(y)

    def _tile(self, level: int, row: int, col: int) -> np.ndarray:
        """Read a tile with its margins, (h, w, 3) uint8; the last few are kept."""
        path = self._folders[level] / f"{col}_{row}.{self._format}"
        with self._lock:
            if path in self._kept:
                self._kept.move_to_end(path)
                return self._kept[path]
        pixels = self._decode(path, self._size(self.levels[level], row, col))
        with self._lock:
            self._kept[path] = pixels
            while len(self._kept) * 3 * self._tile_px**2 > KEPT_BYTES:
                self._kept.popitem(last=False)
        return pixels

    def _size(self, level_size: tuple[int, int], row: int, col: int) -> tuple[int, int]:
        """Width and height of a tile with its margins."""
        starts = [max(0, index * self._tile_px - self._overlap_px) for index in (col, row)]
        stops = [(index + 1) * self._tile_px + self._overlap_px for index in (col, row)]
        width, height = (min(stop, size) - start for start, stop, size in zip(starts, stops, level_size, strict=True))
        return width, height

    def _decode(self, path: Path, size: tuple[int, int]) -> np.ndarray:
        from PIL import Image

        try:
            with Image.open(path) as tile:
                found = tile.size
                if found == size:
                    return _opaque(tile)
        except FileNotFoundError as error:
            raise UnreadablePixels(f"{path}: this tile of {self.path} is missing") from error
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UnreadablePixels(f"{path}: this tile of {self.path} cannot be read: {first_line(error)}") from error
        raise UnreadablePixels(f"{path}: a tile of {found} px, where {self.path} must have one of {size} px")

    def close(self) -> None:
        """Forget the tiles that were kept."""
        self._kept.clear()


def _opaque(tile: "PIL.Image.Image") -> np.ndarray:
    """(h, w, 3) uint8; what is transparent lies on white."""
    from PIL import Image

    if tile.has_transparency_data:
        tile = Image.alpha_composite(Image.new("RGBA", tile.size, "white"), tile.convert("RGBA"))
    return np.asarray(tile.convert("RGB"))


class NoDoctype(ET.TreeBuilder):
    """Builds the tree of a document without a DOCTYPE, hence without entities, which can grow without bound."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        """Refuse the document."""
        raise ValueError("it has a DOCTYPE")


def _read_description(path: Path) -> tuple[tuple[int, int], int, int, str]:
    """Size (width, height), side of a tile, overlap, and the tiles' format."""
    try:
        with path.open("rb") as file:
            image = ET.fromstring(file.read(XML_BYTES), ET.XMLParser(target=NoDoctype()))
        size = image.find("{*}Size")
        if size is None:
            raise ValueError("it has no Size")
        width, height = int(size.get("Width", "")), int(size.get("Height", ""))
        tile_px, overlap_px = int(image.get("TileSize", "")), int(image.get("Overlap", "0"))
        suffix = str(image.get("Format"))
    except (ET.ParseError, ValueError) as error:
        raise SlideError(f"{path}: not a DeepZoom description: {error}") from error
    if min(width, height) < 1 or not 1 <= tile_px <= MAX_TILE_PX or not 0 <= overlap_px <= tile_px:
        raise SlideError(f"{path}: {width}x{height} px in tiles of {tile_px} px that overlap by {overlap_px} px")
    if suffix.lower() not in FORMATS:
        raise SlideError(f"{path}: tiles of format {suffix}; only {', '.join(FORMATS)} can be read")
    return (width, height), tile_px, overlap_px, suffix
