"""Bands of an image to libvips while they are made: no temporary file, and a few megabytes in memory.

Bands are made in the caller's thread, so that networks, Ctrl-C and errors stay there; libvips reads and writes in
another one. It is given a PNG without compression: the simplest format that its packages read from a stream.
"""

import contextlib
import queue
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyvips

PIECE_BYTES = 2**20  # of pixels that are handed over at once
MAX_WAITING_PIECES = 2  # until libvips has taken one, no more are made
POLL_S = 0.2  # between looks whether libvips has failed, while it takes no piece


def save_bands(
    bands: Iterable[tuple[int, np.ndarray]], width: int, height: int, save: Callable[["pyvips.Image"], None]
) -> None:
    """Let libvips save an image while its bands arrive.

    Args:
        bands: (y0, (h, width, 3) uint8) from top to bottom without gaps; h may vary. Taken to their end.
        width: of the image, in px.
        height: of the image, in px.
        save: saves a sequential image with a libvips operation. Called in another thread.

    Raises:
        OSError: with libvips' reason, where it cannot save.
        ValueError: for bands that do not fit together.
        BaseException: what `bands` raises, after libvips has stopped.
    """
    import pyvips

    pipe = _Pipe()
    with ThreadPoolExecutor(1) as executor:
        job = executor.submit(pipe.read_and_save, save)
        try:
            for piece in _png(bands, width, height):
                pipe.put(piece, job)
            pipe.put(b"", job)
            job.result()
        except pyvips.Error as error:
            raise OSError(_reason(error)) from error
        finally:
            pipe.close()


class _Pipe:
    """Bytes on their way from one thread to libvips in another."""

    def __init__(self) -> None:
        self._pieces: queue.Queue[bytes] = queue.Queue(MAX_WAITING_PIECES)
        self._rest = memoryview(b"")
        self._closed = False
        self._image: pyvips.Image | None = None

    def put(self, piece: bytes, job: "Future[None]") -> None:
        """Hand over a piece, b"" for the end, unless libvips needs no more. Raises what `job` failed with."""
        while not job.done():
            with contextlib.suppress(queue.Full):
                self._pieces.put(piece, timeout=POLL_S)
                return
        job.result()

    def close(self) -> None:
        """Stop libvips, if it is still at work."""
        self._closed = True
        if self._image is not None:
            self._image.set_kill(True)
        with contextlib.suppress(queue.Empty):
            while True:
                self._pieces.get_nowait()
        self._pieces.put(b"")  # what `_read` may be waiting for

    def read_and_save(self, save: Callable[["pyvips.Image"], None]) -> None:
        """Save the image that arrives."""
        import pyvips

        source = pyvips.SourceCustom()
        source.on_read(self._read)
        self._image = pyvips.Image.pngload_source(source, access="sequential", fail_on="truncated", unlimited=True)
        save(self._image)

    def _read(self, size: int) -> memoryview | bytes:
        """Give libvips up to `size` bytes; none at the end."""
        if not self._rest and not self._closed:
            self._rest = memoryview(self._pieces.get())
            self._closed = self._closed or not self._rest
        if self._closed:
            return b""
        part, self._rest = self._rest[:size], self._rest[size:]
        return part


def _png(bands: Iterable[tuple[int, np.ndarray]], width: int, height: int) -> Iterator[bytes]:
    """Make the pieces of a PNG without compression. Raises ValueError for bands that do not fit together."""
    deflate = zlib.compressobj(0)
    yield b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0))
    y, piece_rows = 0, max(1, PIECE_BYTES // (3 * width))
    for y0, band in bands:
        if y0 != y or band.dtype != np.uint8 or band.shape[1:] != (width, 3):
            raise ValueError(f"band {band.dtype} {band.shape} at row {y0}: expected a uint8 band at row {y}")
        for top in range(0, len(band), piece_rows):
            part = band[top : top + piece_rows]
            rows = np.zeros((len(part), 1 + 3 * width), np.uint8)  # each row begins with its filter: 0, none
            rows[:, 1:] = part.reshape(len(part), -1)
            yield _chunk(b"IDAT", deflate.compress(rows.data))
        y += len(band)
    if y != height:
        raise ValueError(f"the bands have {y} rows, the image {height}")
    yield _chunk(b"IDAT", deflate.flush()) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(content, zlib.crc32(kind))
    return b"".join((struct.pack(">I", len(content)), kind, content, struct.pack(">I", check)))


def _reason(error: Exception) -> str:
    """Pick the line of libvips' message that tells what is wrong."""
    reasons = [line.strip() for line in str(error).splitlines()[1:] if line.strip()]
    full = [line for line in reasons if "No space left" in line]
    return (full or reasons or [str(error)])[0]
