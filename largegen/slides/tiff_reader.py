"""TIFFs read by rasterio (GDAL): those that libvips does not read, or not rightly.

Tiles of no bytes, channels in pages or planes of their own, and samples of 1 to 15 bits.
"""

from pathlib import Path
from typing import Any

import numpy as np

from largegen.errors import SlideError
from largegen.slides.gdal_file import GdalFile
from largegen.slides.image_info import read_provenance
from largegen.slides.metadata import tiff_properties
from largegen.slides.tiff import MINISWHITE, PALETTE, SEPARATED, TiffHeader

DTYPES = ("uint8", "uint16")


class TiffReader:
    """A TIFF opened by rasterio; levels are those of its header. Where tiles have no bytes, there is no data."""

    name = "rasterio"

    def __init__(self, path: Path, tiff: TiffHeader, check: bool = True):
        self.path, self._tiff, self._file = path, tiff, GdalFile(path)
        self._levels = list(tiff.levels)
        self.levels = [level.size for level in self._levels]
        self._read = (tiff.channels.colour, tiff.channels.alpha)
        if tiff.photometric == SEPARATED:  # GDAL gives red, green and blue
            self._read = ((0, 1, 2), None)
        first = self._dataset(0, 0)
        if first.dtypes[0] not in DTYPES:
            raise SlideError(f"{path}: {first.dtypes[0]} samples; only 8 and 16 bit unsigned pixels can be used")
        self._palette = palette(first) if tiff.photometric == PALETTE else None
        self.white = tiff.white
        self.premultiplied = tiff.channels.premultiplied
        self._missing = any(level.missing is not None for level in self._levels)
        self.has_alpha = self._read[1] is not None or self._missing
        self.properties = tiff_properties(tiff)
        self.provenance = read_provenance(path, tiff.description) or {}
        self.lossy = tiff.lossy
        for level, (width, height) in enumerate(self.levels if check else ()):
            self.read(level, 0, 0, 1, 1)
            self.read(level, width - 1, height - 1, 1, 1)

    def _dataset(self, level: int, page: int) -> Any:
        return self._file.dataset(f"GTIFF_DIR:off:{self._levels[level].ifds[page]}:{self.path}")

    def keep_levels(self, kept: list[int]) -> None:
        """Forget the levels that are not in `kept`."""
        self._levels = [self._levels[index] for index in kept]
        self.levels = [level.size for level in self._levels]

    def starts_exactly(self, level: int) -> bool:
        """Whether `read` starts at the pixel asked for."""
        return True

    def read(self, level: int, x: int, y: int, width: int, height: int) -> tuple[np.ndarray, float, float]:
        """Read (height, width, bands) uint8 or uint16 inside `level`, in its pixels; and where it starts."""
        from rasterio.windows import Window

        colour, alpha = self._read
        window, pages = Window(x, y, width, height), len(self._levels[level].ifds)
        with self._file.read_errors():
            if pages > 1:
                planes = [self._dataset(level, page).read(1, window=window) for page in range(pages)]
            else:
                bands = [band + 1 for band in (*colour, *([] if alpha is None else [alpha]))]
                planes = list(self._dataset(level, 0).read(bands, window=window))
        shown = planes[: len(colour)]
        full = self.white or np.iinfo(shown[0].dtype).max
        if self._palette is not None:
            shown = list(self._palette[:, shown[0]])
        elif self._tiff.photometric == MINISWHITE:
            shown = [full - plane for plane in shown]
        if not self.has_alpha:
            return np.stack(shown, axis=-1), float(x), float(y)
        opacity = planes[-1] if alpha is not None else np.full((height, width), full, shown[0].dtype)
        missing = self._levels[level].missing
        if missing is not None:
            across, down = self._levels[level].block
            gone = missing[np.arange(y, y + height)[:, None] // down, np.arange(x, x + width) // across]
            opacity = np.where(gone, 0, opacity)
            shown = [np.where(gone, full, plane) for plane in shown]  # so that no dark edge is smeared into the tiles
        return np.stack([*shown, opacity.astype(shown[0].dtype)], axis=-1), float(x), float(y)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def palette(dataset: Any) -> np.ndarray:
    """(3, 256 or 65536) uint8: red, green and blue of each index."""
    colours = np.zeros((3, np.iinfo(dataset.dtypes[0]).max + 1), np.uint8)
    for index, colour in dataset.colormap(1).items():
        colours[:, index] = colour[:3]
    return colours
