"""Scenes read by rasterio: GeoTIFF with its masks, the interpretation of its bands, and its place on Earth.

rasterio is imported when the first scene is opened; slides and plain images do without.
"""

import logging
import math
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from largegen.errors import SlideError, UnreadablePixels, first_line
from largegen.slides.image_info import Georeference, read_provenance
from largegen.slides.tiff import TiffHeader

DTYPES = ("uint8", "uint16")


class _JpegWarnings(logging.Handler):
    """Keeps what GDAL only warns of: a damaged JPEG tile, whose lost part it paints grey."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.seen = threading.local()  # a record is handled in the thread that reads

    def emit(self, record: logging.LogRecord) -> None:
        if "JPEGLib" in record.getMessage():
            self.seen.message = record.getMessage()

    def take(self) -> str:
        """Return the calling thread's last warning, "" where there is none, and forget it."""
        message, self.seen.message = getattr(self.seen, "message", ""), ""
        return str(message)


_jpeg_warnings = _JpegWarnings()


@cache
def import_rasterio() -> Any:
    """Import rasterio, its warnings of damage heard, and that off which says that a nodata value wins over alpha."""
    import rasterio

    logging.getLogger("rasterio._err").addHandler(_jpeg_warnings)
    warnings.filterwarnings("ignore", category=rasterio.errors.NodataShadowWarning)
    return rasterio


class SceneReader:
    """A GeoTIFF opened by rasterio; levels are its overviews.

    Its pixels are grey or red, green and blue, then opacity: 0 where the scene has no data, by its mask, its alpha
    band or its nodata value; of a scene that has none of these, where all bands are 0. Other bands are left out.
    """

    name = "rasterio"
    has_alpha = True

    def __init__(self, path: Path, tiff: TiffHeader, check: bool = True):
        self.path = path
        self._opened = threading.local()  # GDAL's handles belong to one thread each
        first = self._dataset(0)
        if first.dtypes[0] not in DTYPES:
            raise SlideError(f"{path}: {first.dtypes[0]} samples; only 8 and 16 bit unsigned pixels can be used")
        datasets = [first, *(self._dataset(level + 1) for level in range(len(first.overviews(1))))]
        self.levels = [(dataset.width, dataset.height) for dataset in datasets]
        interpretation = [band.name for band in first.colorinterp]
        self._colour = colour_bands(interpretation)
        self._palette = _palette(first) if interpretation[0] == "palette" else None
        self._mask = _mask_bands(first)
        self.georeference, self.gsd_m = _place(first)
        self.properties = {"openslide.vendor": "tiff"}
        self.provenance = read_provenance(path, tiff.description) or {}
        self.lossy = tiff.lossy
        for level, (width, height) in enumerate(self.levels if check else ()):
            self.read(level, 0, 0, 1, 1)
            self.read(level, width - 1, height - 1, 1, 1)

    def _dataset(self, level: int) -> Any:
        """Open the calling thread's own handle of a level; a forked worker must not share its parent's position."""
        mine = self._opened
        if getattr(mine, "pid", None) != os.getpid():
            mine.pid, mine.datasets = os.getpid(), {}
        if level not in mine.datasets:
            rasterio = import_rasterio()
            overview = {"overview_level": level - 1} if level else {}
            try:
                mine.datasets[level] = rasterio.open(self.path, **overview)
            except rasterio.errors.RasterioError as error:
                raise SlideError(f"{self.path}: a truncated or damaged TIFF ({first_line(error)})") from error
        return mine.datasets[level]

    def starts_exactly(self, level: int) -> bool:
        """Whether `read` starts at the pixel asked for."""
        return True

    def read(self, level: int, x: int, y: int, width: int, height: int) -> tuple[np.ndarray, float, float]:
        """Read (height, width, 2 or 4) uint8 or uint16 inside `level`, in its pixels; and where it starts."""
        from rasterio.windows import Window

        dataset, window = self._dataset(level), Window(x, y, width, height)
        with self._read_errors(level):
            if self._mask:
                values = dataset.read(self._colour, window=window)
                valid = dataset.read_masks(self._mask, window=window).any(axis=0)
            else:
                every = dataset.read(window=window)
                values, valid = every[[band - 1 for band in self._colour]], every.any(axis=0)
        if self._palette is not None:
            values = self._palette[:, values[0]]
        out = np.empty((height, width, len(values) + 1), values.dtype)
        for band, plane in enumerate(values):
            out[..., band] = plane
        out[..., -1] = valid * np.iinfo(out.dtype).max
        return out, float(x), float(y)

    @contextmanager
    def _read_errors(self, level: int) -> Iterator[None]:
        """Turn GDAL's errors and warnings of damage into one line that names the file."""
        _jpeg_warnings.take()
        cause: Exception | None = None
        try:
            yield
            reason = _jpeg_warnings.take()
        except import_rasterio().errors.RasterioError as error:
            cause, reason = error, first_line(error.__cause__ or error)
        if reason:
            del self._opened.datasets[level]  # and with it what GDAL has kept of the damaged tile
            raise UnreadablePixels(
                f"{self.path}: pixels cannot be read, the file is truncated or damaged: {reason}"
            ) from cause

    def close(self) -> None:
        """Close the handles of all threads."""
        self._opened = threading.local()


def colour_bands(interpretation: Sequence[str]) -> list[int]:
    """Choose the bands to show, counted from 1: red, green and blue where all three are named, else the first three.

    Args:
        interpretation: GDAL's name for each band: "red", "gray", "alpha", "undefined", ...

    Returns:
        Three bands, or one where there are fewer than three besides alpha.
    """
    if {"red", "green", "blue"} <= set(interpretation):
        return [interpretation.index(name) + 1 for name in ("red", "green", "blue")]
    shown = [band for band, name in enumerate(interpretation, 1) if name != "alpha"]
    return shown[:3] if len(shown) >= 3 else shown[:1] or [1]


def _mask_bands(dataset: Any) -> list[int]:
    """Choose the bands, counted from 1, any of whose masks says where there is data; none if GDAL knows of no mask.

    All have the same mask if it is an alpha band or is stored with the file; by a nodata value each has its own.
    """
    flags = {flag.name for flag in dataset.mask_flag_enums[0]}
    if "per_dataset" in flags:
        return [1]
    return list(dataset.indexes) if "nodata" in flags else []


def _palette(dataset: Any) -> np.ndarray:
    """(3, 256 or 65536) uint8: red, green and blue of each index."""
    colours = np.zeros((3, np.iinfo(dataset.dtypes[0]).max + 1), np.uint8)
    for index, colour in dataset.colormap(1).items():
        colours[:, index] = colour[:3]
    return colours


def _place(dataset: Any) -> tuple[Georeference | None, float | None]:
    """Where a scene lies, None without a CRS; and metres per pixel, None unless the CRS is projected, in metres."""
    crs = dataset.crs
    if crs is None:
        return None, None
    a, b, c, d, e, f = (float(value) for value in dataset.transform[:6])
    in_metres = crs.is_projected and abs(crs.linear_units_factor[1] - 1) < 1e-9
    return Georeference(crs.to_string(), (a, b, c, d, e, f)), math.hypot(a, d) if in_metres else None
