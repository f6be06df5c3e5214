"""Pixels and metadata of image files, through libvips and OpenSlide; `slide.py` is the interface over both.

libvips is fast and reads TIFF, SVS (JPEG), OME-TIFF, PNG and JPEG; OpenSlide reads JPEG 2000 SVS and the
makers' own formats (NDPI, MRXS, SCN, BIF, DICOM); deepzoom.py reads DeepZoom trees. All readers give the same
things: `levels`, `properties` (OpenSlide's names), `provenance` (of pictures of ours, else empty), `lossy` (whether
JPEG or the like stored the pixels), and `read`.
"""

import math
import os
import re
from pathlib import Path
from typing import ClassVar

import numpy as np

from largegen.deepzoom import DeepZoomReader
from largegen.errors import SlideError, UnreadablePixels
from largegen.geotiff import first_directory
from largegen.headers import read_provenance
from largegen.vips_notes import import_pyvips, notes

VIPS_VENDORS = (
    None,
    "aperio",
    "generic-tiff",
)  # OpenSlide's names of formats that libvips reads as well, and faster
MPP_RANGE = (0.02, 10.0)  # micrometres per pixel that a microscope can mean; 72 dpi is 353, 2400 dpi is 10.6
COMPRESSION = 259  # TIFF tag
LOSSY_COMPRESSIONS = (6, 7, 33003, 33004, 33005, 34712, 50001)  # JPEG old and new, JPEG 2000 (also Aperio's), WebP
MICROMETRES = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}


def open_reader(path: Path, check: bool = True) -> "VipsReader | OpenSlideReader | DeepZoomReader":
    """Open `path` with what suits its format; check: and read two pixels of each level.

    Raises SlideError if nothing can read it.
    """
    if path.suffix.lower() == ".dzi":
        return DeepZoomReader(path, check)
    import openslide

    try:
        vendor = openslide.OpenSlide.detect_format(path)
    except openslide.OpenSlideError:
        vendor = None
    if vendor not in VIPS_VENDORS:
        return OpenSlideReader(path, check)
    try:
        return VipsReader(path, check)
    except UnreadablePixels:
        if vendor is None:
            raise
        return OpenSlideReader(path, check)  # a TIFF with a compression that libvips lacks, such as JPEG 2000


class VipsReader:
    """A file opened by libvips; a level is a TIFF page, a SubIFD, or the whole of a plain image."""

    name = "vips"

    def __init__(self, path: Path, check: bool = True):
        self.path = path
        self._pid = os.getpid()
        first = self._open()
        if first.format not in ("uchar", "ushort"):
            raise SlideError(f"{path}: {first.format} samples; only 8 and 16 bit unsigned pixels can be used")
        self._pages = self._find_levels(first)
        self._images = [first, *(self._open(**page) for page in self._pages[1:])]
        self.levels = [(image.width, image.height) for image in self._images]
        self.properties = _vips_properties(first)
        self.provenance = read_provenance(path, first) or {}
        is_jpeg = first.get("vips-loader").startswith("jpeg")
        self.lossy = is_jpeg or first_directory(path).get(COMPRESSION) in LOSSY_COMPRESSIONS
        for level, (width, height) in enumerate(self.levels if check else ()):
            self._fetch(level, 0, 0, 1, 1)
            self._fetch(level, width - 1, height - 1, 1, 1)

    def _open(self, **page):
        pyvips = import_pyvips()
        try:
            # revalidate: libvips would otherwise give a cached image, which is stale if the file was
            # rewritten, and whose file descriptor (and position) a forked worker shares with its parent.
            image = pyvips.Image.new_from_file(
                str(self.path), access="random", fail_on="truncated", revalidate=True, **page
            )
        except pyvips.Error as error:
            notes.erased += 1
            with self.path.open("rb") as file:
                is_tiff = file.read(2) in (b"II", b"MM")
            reason = "a truncated or damaged TIFF" if is_tiff else "not an image in a known format"
            raise SlideError(f"{self.path}: {reason} ({_reason(error)})") from error
        return image.colourspace("srgb") if image.interpretation in ("cmyk", "lab") else image

    def _find_levels(self, first) -> list[dict]:
        """The pages or SubIFDs that are smaller versions of the first: same shape, bands and tiling."""
        fields = first.get_fields()
        candidates = []
        if "n-subifds" in fields:
            candidates = [{"subifd": index} for index in range(first.get("n-subifds"))]
        elif "n-pages" in fields and first.get("vips-loader").startswith("tiff"):
            candidates = [{"page": index} for index in range(1, min(first.get("n-pages"), 64))]
        pages, smallest = [{}], first
        for candidate in candidates:
            image = self._open(**candidate)
            ratio = first.width / image.width
            is_level = (
                image.width < smallest.width
                and image.height < smallest.height
                and abs(first.height / ratio - image.height) <= 2
                and image.bands == first.bands
                # An Aperio thumbnail has the slide's shape too, but is stored in strips.
                and ("tile-width" in image.get_fields()) == ("tile-width" in fields)
            )
            if is_level:
                pages.append(candidate)
                smallest = image
        return pages

    def starts_exactly(self, level: int) -> bool:
        """Whether `read` starts at the pixel asked for."""
        return True

    def read(self, level: int, x: int, y: int, width: int, height: int) -> tuple[np.ndarray, float, float]:
        """Read (height, width, bands) uint8 or uint16 inside `level`, in its pixels; and where it starts."""
        if self._pid != os.getpid():  # a forked worker must not share the parent's file descriptor
            self._images = [self._open(**page) for page in self._pages]
            self._pid = os.getpid()
        return self._fetch(level, x, y, width, height), float(x), float(y)

    def _fetch(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        # libvips paints a damaged tile black, keeps it so, notes the error for all threads to see, and returns as if
        # all were well. So what may be anyone's trouble is read again, past the cache, while no other thread reads.
        pyvips = import_pyvips()
        with notes.shared():
            erased = notes.erased
            try:
                pixels = self._pixels(level, x, y, width, height)
                if not notes.pending() and notes.erased == erased:
                    return pixels
            except pyvips.Error:  # erases the note
                notes.erased += 1
            self._images[level] = self._open(**self._pages[level])
        with notes.alone():
            notes.erase()
            try:
                pixels = self._pixels(level, x, y, width, height)
                if not notes.pending():
                    return pixels
                raise pyvips.Error("")
            except pyvips.Error as error:
                self._images[level] = self._open(**self._pages[level])
                raise UnreadablePixels(
                    f"{self.path}: pixels cannot be read, the file is truncated or damaged: {_reason(error)}"
                ) from error

    def _pixels(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        image = self._images[level]
        # A region computes in the calling thread: no thread pool, which a forked worker has lost.
        data = import_pyvips().Region.new(image).fetch(x, y, width, height)
        dtype = np.uint16 if image.format == "ushort" else np.uint8
        return np.frombuffer(data, dtype).reshape(height, width, image.bands)

    def close(self) -> None:
        self._images = []


class OpenSlideReader:
    """A file opened by OpenSlide; pixels without data (alpha 0) take the slide's background colour."""

    name = "openslide"

    provenance: ClassVar[dict] = {}
    lossy = True  # what these formats hold, as a rule; OpenSlide does not say

    def __init__(self, path: Path, check: bool = True):
        self.path = path
        self._pid = os.getpid()
        self._slide = self._open()
        self.levels = list(self._slide.level_dimensions)
        self._downsamples = self._slide.level_downsamples
        self.properties = dict(self._slide.properties)
        for level, (width, height) in enumerate(self.levels if check else ()):
            self.read(level, 0, 0, 1, 1)
            self.read(level, width - 1, height - 1, 1, 1)

    def _open(self):
        import openslide

        try:
            return openslide.OpenSlide(self.path)
        except openslide.OpenSlideError as error:
            raise SlideError(f"{self.path}: not a slide that can be read: {_reason(error)}") from error

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

    def _alone(self, place: tuple):
        """A region, as read_region gives it, through a handle of its own."""
        import openslide

        try:
            with self._open() as slide:
                return slide.read_region(*place)
        except openslide.OpenSlideError as error:
            raise UnreadablePixels(
                f"{self.path}: pixels cannot be read, the file is truncated or damaged: {_reason(error)}"
            ) from error

    def close(self) -> None:
        self._slide.close()


def _reason(error: Exception) -> str:
    """The first telling line of a C library's message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith("unable to ")]
    return (telling or lines or [type(error).__name__])[0].removeprefix("VipsForeignLoad: ")


def _vips_properties(image) -> dict[str, str]:
    """Vendor, resolution and magnification under OpenSlide's property names."""
    fields = image.get_fields()
    description = str(image.get("image-description")) if "image-description" in fields else ""
    properties = {"openslide.vendor": image.get("vips-loader").removesuffix("load") if "vips-loader" in fields else ""}
    if description.startswith("Aperio"):
        pairs = (part.split("=", 1) for part in description.split("|")[1:] if "=" in part)
        properties |= {f"aperio.{key.strip()}": value.strip() for key, value in pairs}
        properties["openslide.vendor"] = "aperio"
        for ours, theirs in (("mpp-x", "MPP"), ("objective-power", "AppMag")):
            if f"aperio.{theirs}" in properties:
                properties[f"openslide.{ours}"] = properties[f"aperio.{theirs}"]
    elif pixels := re.search(r"<(?:\w+:)?Pixels\s[^>]*>", description):
        properties["openslide.vendor"] = "ome"
        attributes = dict(re.findall(r'(\w+)="([^"]*)"', pixels[0]))
        unit = MICROMETRES.get(attributes.get("PhysicalSizeXUnit", "µm"))
        if unit and "PhysicalSizeX" in attributes:
            properties["openslide.mpp-x"] = str(float(attributes["PhysicalSizeX"]) * unit)
        if power := re.search(r'NominalMagnification="([\d.]+)"', description):
            properties["openslide.objective-power"] = power[1]
    if "openslide.mpp-x" not in properties and image.xres > 0:
        mpp = 1000 / image.xres  # libvips: pixels per millimetre
        if MPP_RANGE[0] <= mpp <= MPP_RANGE[1]:
            properties["openslide.mpp-x"] = f"{mpp:.6g}"
    return properties


def level_downsample(full: tuple[int, int], level: tuple[int, int]) -> tuple[float, float]:
    """Level-0 pixels per pixel of a level, (x, y): whole where the size differs from it by rounding only.

    Rounding leaves several whole numbers possible for a small level; a power of two is the likeliest.
    """
    ratio = full[0] / level[0]
    for whole in (2 ** max(0, round(math.log2(ratio))), round(ratio)):
        if all(abs(size / whole - part) <= 1 for size, part in zip(full, level, strict=True)):
            return float(whole), float(whole)
    return ratio, full[1] / level[1]


def positive(value: object) -> float | None:
    """A property as a positive number, or None where it is missing or not one."""
    try:
        number = float(str(value or ""))
    except ValueError:
        return None
    return number if number > 0 and math.isfinite(number) else None
