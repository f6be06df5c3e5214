"""Which reader opens a file, and what all readers give; `slide.py` is the interface over them.

libvips is fast and reads TIFF, SVS (JPEG), OME-TIFF, PNG and JPEG; OpenSlide reads JPEG 2000 SVS and the makers' own
formats (NDPI, MRXS, SCN, BIF, DICOM); rasterio reads scenes, and TIFFs that libvips does not; deepzoom_reader.py reads
DeepZoom trees.
"""

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from largegen.errors import SlideError
from largegen.runtime.say import say_once
from largegen.slides.deepzoom_reader import DeepZoomReader
from largegen.slides.find import TIFF_SUFFIXES
from largegen.slides.levels import shows_the_same, telling_cells
from largegen.slides.openslide_reader import OpenSlideReader
from largegen.slides.scene_reader import SceneReader
from largegen.slides.tiff import TiffHeader, read_tiff_header
from largegen.slides.tiff_reader import TiffReader
from largegen.slides.vips_reader import VipsReader

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
    premultiplied: bool  # the colours are multiplied by it
    white: int | None  # the largest value that a sample can have, where the file says so

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
            (height, width, bands) uint8, uint16 or, of scenes, float32: grey or red, green and blue, then perhaps
            opacity; and where it starts (x, y), in pixels of the level.

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
    suffix = path.suffix.lower()
    if tiff and tiff.georeferenced and suffix in TIFF_SUFFIXES:
        return SceneReader(path, tiff, check)
    import openslide

    try:
        vendor = openslide.OpenSlide.detect_format(path)
    except openslide.OpenSlideError:
        vendor = None
    if vendor not in VIPS_VENDORS:
        return OpenSlideReader(path, check)
    if tiff and tiff.channels.refused:
        raise SlideError(f"{path}: {tiff.channels.refused}")
    reader = _open_slide_or_image(path, tiff, vendor, check)
    if tiff and not isinstance(reader, OpenSlideReader):
        for note in tiff.notes:
            say_once(f"{path}: {note}")
        _drop_foreign_pages(reader, tiff)
    return reader


def _open_slide_or_image(
    path: Path, tiff: TiffHeader | None, vendor: str | None, check: bool
) -> VipsReader | TiffReader | OpenSlideReader:
    """Open what is no scene, with libvips where it reads it rightly."""
    try:
        if tiff and tiff.unusual:
            return TiffReader(path, tiff, check)
        return VipsReader(path, tiff, check)
    except SlideError as error:
        if vendor is not None:
            return OpenSlideReader(path, check)  # a compression that neither libvips nor GDAL has, such as JPEG 2000
        if tiff is None or tiff.unusual or not tiff.rare:
            raise
        try:
            return TiffReader(path, tiff, check)  # a compression that libvips lacks, such as LERC
        except SlideError:
            raise error from None


def _drop_foreign_pages(reader: VipsReader | TiffReader, tiff: TiffHeader) -> None:
    """Keep those levels of which the file or their pixels say that they show what the first page does."""
    kept = [0]
    cells = telling_cells(reader) if any(not level.certain for level in tiff.levels[1:]) else []
    for index, level in enumerate(tiff.levels[1:], 1):
        if reader.levels[index] == reader.levels[kept[-1]]:
            continue
        if level.certain or shows_the_same(reader, kept[-1], index, cells):
            kept.append(index)
        else:
            width, height = level.size
            say_once(f"{reader.path}: its page of {width}x{height} px shows something else and is no level")
    if len(kept) < len(tiff.levels):
        reader.keep_levels(kept)
