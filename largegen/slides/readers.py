"""Which reader opens a file, and what all readers give; `slide.py` is the interface over them.

libvips is fast and reads TIFF, SVS (JPEG), OME-TIFF, PNG and JPEG; OpenSlide reads JPEG 2000 SVS and the makers' own
formats (NDPI, MRXS, SCN, BIF, DICOM); rasterio reads scenes; deepzoom_reader.py reads DeepZoom trees.
"""

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from largegen.errors import UnreadablePixels
from largegen.slides.deepzoom_reader import DeepZoomReader
from largegen.slides.openslide_reader import OpenSlideReader
from largegen.slides.scene_reader import SceneReader
from largegen.slides.tiff import read_tiff_header
from largegen.slides.vips_reader import VipsReader

SCENE_SUFFIXES = (".tif", ".tiff")
# OpenSlide's names of formats that libvips reads as well, and faster
VIPS_VENDORS = (None, "aperio", "generic-tiff")


class Reader(Protocol):
    """An open file."""

    name: str  # of the library that reads it
    levels: list[tuple[int, int]]  # width and height of each, the largest first
    properties: dict[str, str]  # OpenSlide's names
    provenance: dict[str, Any]  # what an image of ours says of itself, else empty
    lossy: bool  # JPEG or the like stored the pixels
    has_alpha: bool  # the last band is opacity: where it is 0 there is no data

    def starts_exactly(self, level: int) -> bool:
        """Whether `read` starts at the pixel asked for."""

    def read(self, level: int, x: int, y: int, width: int, height: int) -> tuple[np.ndarray, float, float]:
        """Read a rectangle inside a level.

        Args:
            level: an index of `levels`.
            x: left edge, in pixels of the level.
            y: top edge, in pixels of the level.
            width: in pixels of the level.
            height: in pixels of the level.

        Returns:
            (height, width, bands) uint8 or uint16: grey or red, green and blue, then perhaps opacity; and where it
            starts (x, y), in pixels of the level.

        Raises:
            UnreadablePixels: the file is damaged.
        """

    def close(self) -> None:
        """Close the file."""


def open_reader(path: Path, check: bool = True) -> Reader:
    """Open a file with what suits its format.

    Args:
        path: the file.
        check: read two pixels of each level, so that a truncated file shows now.

    Raises:
        SlideError: nothing can read it.
    """
    if path.suffix.lower() == ".dzi":
        return DeepZoomReader(path, check)
    tiff = read_tiff_header(path)
    if tiff and tiff.georeferenced and path.suffix.lower() in SCENE_SUFFIXES:
        return SceneReader(path, tiff, check)
    import openslide

    try:
        vendor = openslide.OpenSlide.detect_format(path)
    except openslide.OpenSlideError:
        vendor = None
    if vendor not in VIPS_VENDORS:
        return OpenSlideReader(path, check)
    try:
        return VipsReader(path, tiff, check)
    except UnreadablePixels:
        if vendor is None:
            raise
        return OpenSlideReader(path, check)  # a TIFF with a compression that libvips lacks, such as JPEG 2000
