"""Scenes read by rasterio: GeoTIFF with its masks, the interpretation of its bands, and its place on Earth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from largegen.errors import SlideError
from largegen.runtime.say import say_once
from largegen.slides.colour import full_opacity
from largegen.slides.gdal_file import GdalFile
from largegen.slides.image_info import read_provenance
from largegen.slides.ome import COLOURS
from largegen.slides.place import find_place
from largegen.slides.tiff import TiffHeader
from largegen.slides.tiff_reader import DTYPES, palette

STRETCHED = ("int8", "int16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64")


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
        if first.dtypes[0] not in (*DTYPES, *STRETCHED):
            raise SlideError(f"{path}: {first.dtypes[0]} samples; whole numbers and floating point can be used")
        datasets = [first, *(self._dataset(level + 1) for level in range(len(first.overviews(1))))]
        self.levels = [(dataset.width, dataset.height) for dataset in datasets]
        interpretation = [band.name for band in first.colorinterp]
        self._colour = colour_bands(interpretation, first.descriptions)
        if len(self._colour) == 3 and len(interpretation) > 4 and not _named(interpretation, first.descriptions):
            bands = ", ".join(map(str, self._colour))
            say_once(f"{path}: bands {bands} of {len(interpretation)} are taken for red, green and blue: none is named")
        if len(self._colour) < len([name for name in interpretation if name != "alpha"]) < 3:
            say_once(f"{path}: band 1 of {len(interpretation)} is shown, in grey; the other is left out")
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
        """Read (height, width, 2 or 4) uint8, uint16 or float32 inside `level`, in its pixels; and where it starts."""
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
        elif dataset.dtypes[0] in STRETCHED:
            values, valid = self._numbers(values, valid)
        out = np.empty((height, width, len(values) + 1), values.dtype)
        for band, plane in enumerate(values):
            out[..., band] = plane
        out[..., -1] = valid * full_opacity(out.dtype)
        return out, float(x), float(y)

    def _numbers(self, values: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Take values of any range as float32, by the bands' own scales and offsets; what is not finite is no data."""
        first = self._dataset(0)
        scales, offsets = (
            np.array([numbers[band - 1] for band in self._colour], np.float64)[:, None, None]
            for numbers in (first.scales, first.offsets)
        )
        if first.nodata is None and values.dtype.kind in "if" and (lowest := values <= _lowest(values.dtype)).any():
            say_once(f"{self.path}: the lowest number there is stands in it and is taken for no data; it declares none")
            valid = valid & ~lowest.any(axis=0)
        values = values * scales + offsets
        valid = valid & np.isfinite(values).all(axis=0)
        return np.where(valid, values, 0).astype(np.float32), valid

    def close(self) -> None:
        """Close the handles of all threads."""
        self._file.close()


def _lowest(dtype: np.dtype) -> float:
    """Return what is no measurement: the lowest number of a signed type, what is near it of floating point."""
    return float(np.iinfo(dtype).min) if dtype.kind == "i" else float(np.finfo(dtype).min) / 2


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
