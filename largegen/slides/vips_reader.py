"""Images read by libvips: TIFF, SVS (JPEG), OME-TIFF, PNG and JPEG.

libvips keeps one error buffer for all threads, so readers share it under `VipsErrorLock`.
"""

import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np

from largegen.errors import SlideError, UnreadablePixels, telling_line
from largegen.runtime.private_api import clear_vips_error, vips_error_pending
from largegen.slides.geotiff import first_directory
from largegen.slides.image_info import read_provenance

MPP_RANGE = (0.02, 10.0)  # micrometres per pixel that a microscope can mean; 72 dpi is 353, 2400 dpi is 10.6
COMPRESSION = 259  # TIFF tag
LOSSY_COMPRESSIONS = (6, 7, 33003, 33004, 33005, 34712, 50001)  # JPEG old and new, JPEG 2000 (also Aperio's), WebP
MICROMETRES = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}
_import_lock = threading.Lock()


@cache  # once: setting a level makes all loggers forget what they have worked out
def import_pyvips():
    """Import pyvips with its chatter about odd TIFF tags off: what matters comes as an exception."""
    with _import_lock:
        os.environ.setdefault("VIPS_WARNING", "0")
        logging.getLogger("pyvips").setLevel(logging.ERROR)
        import pyvips
    return pyvips


class VipsErrorLock:
    """Turns of the threads at libvips' note of errors, which is one for all: many read at once, or one alone."""

    def __init__(self) -> None:
        self.erased = 0  # times that a note was erased which may have been another thread's
        self._turn = threading.Lock()
        self._left = threading.Condition()
        self._reading = 0

    @contextmanager
    def reading(self) -> Iterator[None]:
        """While others may read too, so that a new note may be theirs; none is erased on purpose."""
        with self._turn, self._left:
            self._reading += 1
        try:
            yield
        finally:
            with self._left:
                self._reading -= 1
                self._left.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """While no other thread reads: old notes may be erased, and a new one is of this thread."""
        with self._turn:
            with self._left:
                self._left.wait_for(lambda: not self._reading)
            yield

    def pending(self) -> bool:
        return vips_error_pending(import_pyvips())

    def erase(self) -> None:
        clear_vips_error(import_pyvips())


error_lock = VipsErrorLock()
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=error_lock.__init__)  # the other threads are gone, and their turns with them


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
            error_lock.erased += 1
            with self.path.open("rb") as file:
                is_tiff = file.read(2) in (b"II", b"MM")
            reason = "a truncated or damaged TIFF" if is_tiff else "not an image in a known format"
            raise SlideError(f"{self.path}: {reason} ({telling_line(error)})") from error
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
        with error_lock.reading():
            erased = error_lock.erased
            try:
                pixels = self._pixels(level, x, y, width, height)
                if not error_lock.pending() and error_lock.erased == erased:
                    return pixels
            except pyvips.Error:  # erases the note
                error_lock.erased += 1
            self._images[level] = self._open(**self._pages[level])
        with error_lock.exclusive():
            error_lock.erase()
            try:
                pixels = self._pixels(level, x, y, width, height)
                if not error_lock.pending():
                    return pixels
                raise pyvips.Error("")
            except pyvips.Error as error:
                self._images[level] = self._open(**self._pages[level])
                raise UnreadablePixels(
                    f"{self.path}: pixels cannot be read, the file is truncated or damaged: {telling_line(error)}"
                ) from error

    def _pixels(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        image = self._images[level]
        # A region computes in the calling thread: no thread pool, which a forked worker has lost.
        data = import_pyvips().Region.new(image).fetch(x, y, width, height)
        dtype = np.uint16 if image.format == "ushort" else np.uint8
        return np.frombuffer(data, dtype).reshape(height, width, image.bands)

    def close(self) -> None:
        self._images = []


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
