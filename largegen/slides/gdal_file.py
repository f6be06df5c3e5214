"""What readers over rasterio share: a handle for each thread, and damage heard.

rasterio is imported when the first such file is opened; most slides and plain images do without.
"""

import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from largegen.errors import SlideError, UnreadablePixels, first_line


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
    """Import rasterio, its warnings of damage heard, and those off that say what is known here."""
    import rasterio

    logging.getLogger("rasterio._err").addHandler(_jpeg_warnings)
    warnings.filterwarnings("ignore", category=rasterio.errors.NodataShadowWarning)
    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
    return rasterio


class GdalFile:
    """Datasets of one file, opened when they are needed, each thread its own: GDAL's handles belong to one."""

    def __init__(self, path: Path):
        self.path = path
        self._opened = threading.local()

    def dataset(self, name: str | Path, **options: Any) -> Any:
        """Return the calling thread's own handle; a forked worker must not share its parent's position.

        Args:
            name: the path, or GDAL's name of a part of the file.
            options: rasterio's, of opening.

        Raises:
            SlideError: it cannot be opened.
        """
        mine = self._opened
        if getattr(mine, "pid", None) != os.getpid():
            mine.pid, mine.datasets = os.getpid(), {}
        key = (str(name), *options.items())
        if key not in mine.datasets:
            rasterio = import_rasterio()
            try:
                mine.datasets[key] = rasterio.open(name, **options)
            except rasterio.errors.RasterioError as error:
                raise SlideError(f"{self.path}: a truncated or damaged TIFF ({first_line(error)})") from error
        return mine.datasets[key]

    @contextmanager
    def read_errors(self) -> Iterator[None]:
        """Turn GDAL's errors and warnings of damage into one line that names the file."""
        _jpeg_warnings.take()
        cause: Exception | None = None
        try:
            yield
            reason = _jpeg_warnings.take()
        except import_rasterio().errors.RasterioError as error:
            cause, reason = error, first_line(error.__cause__ or error)
        if reason:
            self._opened.datasets = {}  # and with it what GDAL has kept of the damaged tile
            raise UnreadablePixels(
                f"{self.path}: pixels cannot be read, the file is truncated or damaged: {reason}"
            ) from cause

    def close(self) -> None:
        """Close the handles of all threads."""
        self._opened = threading.local()
