"""Images read by libvips: TIFF, SVS (JPEG), OME-TIFF, PNG and JPEG."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from largegen.errors import OutputError, SlideError, UnreadablePixels, no_space, telling_line
from largegen.runtime.private_api import clear_vips_error, vips_error_pending
from largegen.slides.image_info import header_text, read_provenance
from largegen.slides.metadata import image_properties, tiff_properties
from largegen.slides.tiff import PALETTE, TiffHeader

_import_lock = threading.Lock()

STARTS = {b"II": "TIFF", b"MM": "TIFF", b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"RIFF": "WebP"}  # of files
NO_TEMPORARY = "no space left for temporary files on the way to it; free some, or set TMPDIR to another folder"


@cache  # once: setting a level makes all loggers forget what they have worked out
def import_pyvips() -> Any:
    """Import pyvips with its chatter about odd TIFF tags off: what matters comes as an exception."""
    with _import_lock:
        os.environ.setdefault("VIPS_WARNING", "0")
        logging.getLogger("pyvips").setLevel(logging.ERROR)
        import pyvips
    return pyvips


class VipsErrorLock:
    """A readers-writer lock around libvips' error buffer, which is one for all threads: many read, or one alone."""

    def __init__(self) -> None:
        self.erased = 0  # times that a message was erased which may have been another thread's
        self._turn = threading.Lock()
        self._left = threading.Condition()
        self._reading = 0

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold while others may read too, so that a new message may be theirs; none is erased on purpose."""
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
        """Hold while no other thread reads: old messages may be erased, and a new one is of this thread."""
        with self._turn:
            with self._left:
                self._left.wait_for(lambda: not self._reading)
            yield

    def pending(self) -> bool:
        """Whether the buffer holds a message."""
        return vips_error_pending(import_pyvips())

    def erase(self) -> None:
        """Empty the buffer."""
        clear_vips_error(import_pyvips())


error_lock = VipsErrorLock()


def _renew_lock() -> None:
    global error_lock
    error_lock = VipsErrorLock()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_renew_lock)  # the other threads are gone, and their turns with them


class VipsReader:
    """A file opened by libvips; a level is a TIFF page, a SubIFD, or the whole of a plain image."""

    name = "vips"
    premultiplied = False  # libvips divides
    white: int | None = None

    def __init__(self, path: Path, tiff: TiffHeader | None = None, check: bool = True):
        self.path = path
        self._pid = os.getpid()
        self._pages = [level.options for level in tiff.levels] if tiff else [{}]
        first = self._open(self._pages[0])
        if first.format not in ("uchar", "ushort"):
            raise SlideError(f"{path}: {first.format} samples; only 8 and 16 bit unsigned pixels can be used")
        self._images = [first, *(self._open(page) for page in self._pages[1:])]
        self.levels: list[tuple[int, int]] = [(image.width, image.height) for image in self._images]
        self.properties = tiff_properties(tiff) if tiff else image_properties(first)
        self.provenance = read_provenance(path, header_text(first)) or {}
        self.has_alpha = first.bands in (2, 4)
        self.lossy = tiff.lossy if tiff else first.get("vips-loader").startswith("jpeg")
        self._bands: list[int] | None = None  # those to give, where there are others
        if tiff:
            self._take_channels(tiff, first.bands)
        for level, (width, height) in enumerate(self.levels if check else ()):
            self._fetch(level, 0, 0, 1, 1)
            self._fetch(level, width - 1, height - 1, 1, 1)

    def _take_channels(self, tiff: TiffHeader, count: int) -> None:
        """Choose the bands to give, of `count` that libvips gives."""
        channels = tiff.channels
        self.white, self.has_alpha = tiff.white, channels.alpha is not None
        if tiff.photometric == PALETTE:  # libvips gives its colours
            return
        bands = [*channels.colour, *([] if channels.alpha is None else [channels.alpha])]
        self._bands = None if bands == list(range(count)) else bands

    def keep_levels(self, kept: list[int]) -> None:
        """Forget the levels that are not in `kept`."""
        self._pages, self._images = ([each[i] for i in kept] for each in (self._pages, self._images))
        self.levels = [self.levels[i] for i in kept]

    def _open(self, page: dict[str, int]) -> Any:
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
                start = file.read(4)
            kind = next((kind for begins, kind in STARTS.items() if start.startswith(begins)), None)
            reason = f"a truncated or damaged {kind}" if kind else "not an image in a known format"
            if no_space(error):
                raise OutputError(f"{self.path}: {NO_TEMPORARY}") from error
            raise SlideError(f"{self.path}: {reason} ({telling_line(error)})") from error
        return image.colourspace("srgb") if image.interpretation in ("cmyk", "lab") else image

    def starts_exactly(self, level: int) -> bool:
        """Whether `read` starts at the pixel asked for."""
        return True

    def read(self, level: int, x: int, y: int, width: int, height: int) -> tuple[np.ndarray, float, float]:
        """Read (height, width, bands) uint8 or uint16 inside `level`, in its pixels; and where it starts."""
        if self._pid != os.getpid():  # a forked worker must not share the parent's file descriptor
            self._images = [self._open(page) for page in self._pages]
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
            except pyvips.Error:  # erases the message
                error_lock.erased += 1
            self._images[level] = self._open(self._pages[level])
        with error_lock.exclusive():
            error_lock.erase()
            try:
                pixels = self._pixels(level, x, y, width, height)
                if not error_lock.pending():
                    return pixels
                raise pyvips.Error("")
            except pyvips.Error as error:
                self._images[level] = self._open(self._pages[level])
                if no_space(error):
                    raise OutputError(f"{self.path}: {NO_TEMPORARY}") from error
                raise UnreadablePixels(
                    f"{self.path}: pixels cannot be read, the file is truncated or damaged: {telling_line(error)}"
                ) from error

    def _pixels(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        image = self._images[level]
        # A region computes in the calling thread: no thread pool, which a forked worker has lost.
        data = import_pyvips().Region.new(image).fetch(x, y, width, height)
        dtype = np.uint16 if image.format == "ushort" else np.uint8
        pixels = np.frombuffer(data, dtype).reshape(height, width, image.bands)
        return pixels if self._bands is None else pixels[..., self._bands]

    def close(self) -> None:
        """Forget the images; libvips closes the file."""
        self._images = []
