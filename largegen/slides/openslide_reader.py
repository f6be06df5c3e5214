"""Slides read by OpenSlide: JPEG 2000 SVS, and the makers' own formats (NDPI, MRXS, SCN, BIF, DICOM)."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from largegen.errors import SlideError, UnreadablePixels, telling_line
from largegen.slides.metadata import completed


class OpenSlideReader:
    """A file opened by OpenSlide; pixels without data (alpha 0) take the slide's background colour."""

    name = "openslide"
    lossy = True  # what these formats hold, as a rule; OpenSlide does not say
    has_alpha = False
    premultiplied = False
    white: int | None = None

    def __init__(self, path: Path, check: bool = True):
        self.path = path
        self._pid = os.getpid()
        self._slide = self._open()
        self.levels: list[tuple[int, int]] = list(self._slide.level_dimensions)
        self._downsamples = self._slide.level_downsamples
        self.properties: dict[str, str] = completed(self._slide.properties)
        self.provenance: dict[str, Any] = {}  # images of ours are none of these formats
        for level, (width, height) in enumerate(self.levels if check else ()):
            self.read(level, 0, 0, 1, 1)
            self.read(level, width - 1, height - 1, 1, 1)

    def _open(self) -> Any:
        import openslide

        try:
            return openslide.OpenSlide(self.path)
        except openslide.OpenSlideError as error:
            raise SlideError(f"{self.path}: not a slide that can be read: {telling_line(error)}") from error

    def starts_exactly(self, level: int) -> bool:
        """Whether `read` starts at the pixel asked for: not where levels are no whole fraction of level 0."""
        return float(self._downsamples[level]).is_integer()

    def read(self, level: int, x: int, y: int, width: int, height: int) -> tuple[np.ndarray, float, float]:
        """Read (height, width, 3) uint8 inside `level`.

        OpenSlide takes the place in whole level-0 pixels and interpolates, so the region may start up to half
        of one beside (x, y): the second and third result say where, in pixels of the level.
        """
        import openslide
        from PIL import Image

        if self._pid != os.getpid():
            self._slide, self._pid = self._open(), os.getpid()
        downsample = self._downsamples[level]
        level0_x, level0_y = round(x * downsample), round(y * downsample)
        place = ((level0_x, level0_y), level, (width, height))
        try:
            region = self._slide.read_region(*place)
        except openslide.OpenSlideError:
            # The first error, which may be another thread's, spoils a handle for good: ask one that nobody else has.
            self._slide = self._open()
            region = self._alone(place)
        background = "#" + self.properties.get("openslide.background-color", "ffffff")
        opaque = Image.new("RGB", region.size, background)
        opaque.paste(region, mask=region.getchannel("A"))
        return np.asarray(opaque), level0_x / downsample, level0_y / downsample

    def _alone(self, place: tuple[tuple[int, int], int, tuple[int, int]]) -> Any:
        """Read a rectangle, as read_region gives it, through a handle of its own."""
        import openslide

        try:
            with self._open() as slide:
                return slide.read_region(*place)
        except openslide.OpenSlideError as error:
            raise UnreadablePixels(
                f"{self.path}: pixels cannot be read, the file is truncated or damaged: {telling_line(error)}"
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._slide.close()
