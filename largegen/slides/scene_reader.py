"""Scenes read by rasterio: GeoTIFF with its masks, the interpretation of its bands, and its place on Earth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from largegen.errors import SlideError
from largegen.runtime.say import say_once
from largegen.slides.gdal_file import GdalFile
from largegen.slides.image_info import read_provenance
from largegen.slides.ome import COLOURS
from largegen.slides.place import find_place
from largegen.slides.tiff import TiffHeader
from largegen.slides.tiff_reader import DTYPES, palette


class SceneReader:
    """A GeoTIFF opened by rasterio; levels are its overviews.

    Its pixels are grey or red, green and blue, then opacity: 0 where the scene has no data, by its mask, its alpha
    band or its nodata value; of a scene that has none of these, where all bands are 0. Other bands are left out.
    """

    name = "rasterio"
    has_alpha = True
    premultiplied = False
    white: int | None = None

    def __init__(self, path: Path, tiff: TiffHeader, check: bool = True):
        self.path, self._file = path, GdalFile(path)
        first = self._dataset(0)
        if first.dtypes[0] not in DTYPES:
            raise SlideError(f"{path}: {first.dtypes[0]} samples; only 8 and 16 bit unsigned pixels can be used")
        datasets = [first, *(self._dataset(level + 1) for level in range(len(first.overviews(1))))]
        self.levels = [(dataset.width, dataset.height) for dataset in datasets]
        interpretation = [band.name for band in first.colorinterp]
        self._colour = colour_bands(interpretation, first.descriptions)
        if len(self._colour) == 3 and len(interpretation) > 4 and not _named(interpretation, first.descriptions):
            bands = ", ".join(map(str, self._colour))
            say_once(f"{path}: bands {bands} of {len(interpretation)} are taken for red, green and blue: none is named")
        self._palette = palette(first) if interpretation[0] == "palette" else None
        self._mask = _mask_bands(first)
        self.place = find_place(first)
        if self.place.lost:
            say_once(f"{path}: {self.place.lost}")
        self.properties = {"openslide.vendor": "tiff"}
        self.provenance = read_provenance(path, tiff.description) or {}
        self.lossy = tiff.lossy
        for level, (width, height) in enumerate(self.levels if check else ()):
            self.read(level, 0, 0, 1, 1)
            self.read(level, width - 1, height - 1, 1, 1)

    def _dataset(self, level: int) -> Any:
        return self._file.dataset(self.path, **({"overview_level": level - 1} if level else {}))

    def starts_exactly(self, level: int) -> bool:
        """Whether `read` starts at the pixel asked for."""
        return True

    def read(self, level: int, x: int, y: int, width: int, height: int) -> tuple[np.ndarray, float, float]:
        """Read (height, width, 2 or 4) uint8 or uint16 inside `level`, in its pixels; and where it starts."""
        from rasterio.windows import Window

        dataset, window = self._dataset(level), Window(x, y, width, height)
        with self._file.read_errors():
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

    def close(self) -> None:
        """Close the handles of all threads."""
        self._file.close()


def colour_bands(interpretation: Sequence[str], descriptions: Sequence[str | None] = ()) -> list[int]:
    """Choose the bands to show, counted from 1: red, green and blue where all three are named, else the first three.

    Args:
        interpretation: GDAL's name for each band: "red", "gray", "alpha", "undefined", ...
        descriptions: the file's own, where it has any.

    Returns:
        Three bands, or one where there are fewer than three besides alpha.
    """
    if named := _named(interpretation, descriptions):
        return named
    shown = [band for band, name in enumerate(interpretation, 1) if name != "alpha"]
    return shown[:3] if len(shown) >= 3 else shown[:1] or [1]


def _named(interpretation: Sequence[str], descriptions: Sequence[str | None]) -> list[int]:
    """Find the bands, counted from 1, that are called red, green and blue; none unless all three are."""
    for names in ([(name or "").strip().lower() for name in descriptions], list(interpretation)):
        if set(COLOURS) <= set(names):
            return [names.index(name) + 1 for name in COLOURS]
    return []


def _mask_bands(dataset: Any) -> list[int]:
    """Choose the bands, counted from 1, any of whose masks says where there is data; none if GDAL knows of no mask.

    All have the same mask if it is an alpha band or is stored with the file; by a nodata value each has its own.
    """
    flags = {flag.name for flag in dataset.mask_flag_enums[0]}
    if "per_dataset" in flags:
        return [1]
    return list(dataset.indexes) if "nodata" in flags else []
