"""The rows of a canvas and of what a scheduler remembers of it: in memory, or in a file that is walked in bands.

There are two generations of them: the present one, which a step reads, and the next one, which it writes.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

from largegen.runtime.files import write_errors

CANVAS = "canvas"  # the field that is the canvas; the others are of the scheduler
HEADER_BYTES = 4096  # at the start of a file of rows: its mark, and notes of processes
MARK_BYTES, NOTE_BYTES = 1024, 64
NOTES = (HEADER_BYTES - MARK_BYTES) // NOTE_BYTES
VALUE_BYTES = 4  # float32


class Rows(Protocol):
    """Fields of the same shape (C, height, width), float32, of which rows are read and written."""

    device: torch.device

    @property
    def fields(self) -> set[str]:
        """The fields that the present generation has."""
        ...

    def read(self, field: str, top: int, bottom: int) -> Tensor:
        """Return rows of the present generation, (C, bottom - top, width)."""
        ...

    def write(self, field: str, top: int, rows: Tensor) -> None:
        """Write rows (C, n, width) of the next generation."""
        ...

    def turn(self) -> None:
        """Make the next generation the present one."""
        ...


class MemoryRows:
    """Rows in memory.

    Args:
        held: the first row and that after the last one that are held.
        device: where.
    """

    def __init__(self, held: tuple[int, int], device: torch.device | str = "cpu") -> None:
        self.held = held
        self.device = torch.device(device)
        self._present: dict[str, Tensor] = {}
        self._next: dict[str, Tensor] = {}

    @property
    def fields(self) -> set[str]:
        """The fields that the present generation has."""
        return set(self._present)

    def read(self, field: str, top: int, bottom: int) -> Tensor:
        """Return rows of the present generation: see `Rows`."""
        return self._present[field][:, top - self.held[0] : bottom - self.held[0]]

    def write(self, field: str, top: int, rows: Tensor) -> None:
        """Write rows of the next generation: see `Rows`."""
        count = self.held[1] - self.held[0]
        if rows.shape[1] == count:
            self._next[field] = rows.to(self.device)
            return
        if field not in self._next:
            self._next[field] = torch.empty(rows.shape[0], count, rows.shape[2], device=self.device)
        self._next[field][:, top - self.held[0] :][:, : rows.shape[1]] = rows

    def turn(self) -> None:
        """Make the next generation the present one."""
        self._present, self._next = self._next, {}


class FileRows:
    """Rows in a file, which is read and written, not mapped.

    So memory holds what is asked for and nothing else, and a full disk is an error of writing, not the end of the
    process.

    Args:
        path: the file, from `create`.
        shape: (C, height, width) of a field.
        names: all fields that there may be, in the order in which they lie in the file.

    Raises:
        OSError: where the file cannot be opened.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int], names: list[str]) -> None:
        self.path, self.shape, self.names = path, shape, names
        self.device = torch.device("cpu")
        self._present: set[str] = set()
        self.generation = 1  # the present one, 0 or 1: the first that is written is 0
        self._written: set[str] = set()
        self._file = path.open("r+b", buffering=0)

    @staticmethod
    def create(path: Path, shape: tuple[int, int, int], names: list[str], mark: bytes) -> None:
        """Make a file with room for both generations of all fields.

        Args:
            path: of the file.
            shape: see FileRows.
            names: see FileRows.
            mark: what tells this file from others of its name; 1 to MARK_BYTES bytes.

        Raises:
            OutputError: where the disk has no such room; then there is no file.
        """
        size = file_bytes(shape, len(names))
        try:
            with write_errors(path), path.open("wb", buffering=0) as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)
                else:
                    file.truncate(size)
                file.write(mark.ljust(HEADER_BYTES, b"\0"))
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    @property
    def fields(self) -> set[str]:
        """The fields that the present generation has."""
        return self._present

    def mark(self) -> bytes:
        """Read the mark that the file was made with."""
        self._file.seek(0)
        return (self._file.read(MARK_BYTES) or b"").rstrip(b"\0")

    def read_note(self, number: int) -> bytes:
        """Read one of the NOTES that the header has room for, of NOTE_BYTES."""
        self._file.seek(MARK_BYTES + number * NOTE_BYTES)
        return self._file.read(NOTE_BYTES) or b""

    def write_note(self, number: int, content: bytes) -> None:
        """Write one of them."""
        with write_errors(self.path):
            self._file.seek(MARK_BYTES + number * NOTE_BYTES)
            self._file.write(content)

    def is_whole(self) -> bool:
        """Tell whether the file has the size that it was made with."""
        return os.fstat(self._file.fileno()).st_size == file_bytes(self.shape, len(self.names))

    def read(self, field: str, top: int, bottom: int) -> Tensor:
        """Return rows of the present generation: see `Rows`."""
        channels, _, width = self.shape
        rows = torch.empty(bottom - top, channels, width)
        room = memoryview(cast(Any, rows.numpy())).cast("B") if rows.numel() else memoryview(b"")
        self._file.seek(self._place(field, self.generation, top))
        done = 0
        while done < len(room):
            count = self._file.readinto(room[done:])
            if not count:
                raise OSError(f"{self.path}: ends too early")
            done += count
        return rows.permute(1, 0, 2).contiguous()

    def write(self, field: str, top: int, rows: Tensor) -> None:
        """Write rows of the next generation: see `Rows`."""
        content = np.ascontiguousarray(rows.detach().float().cpu().permute(1, 0, 2).numpy())
        room = memoryview(cast(Any, content)).cast("B") if content.size else memoryview(b"")
        with write_errors(self.path):
            self._file.seek(self._place(field, 1 - self.generation, top))
            done = 0
            while done < len(room):
                done += self._file.write(room[done:])
        self._written.add(field)

    def turn(self) -> None:
        """Make the next generation the present one."""
        self.generation = 1 - self.generation
        self._present, self._written = self._written, set()

    def resume(self, generation: int, fields: set[str]) -> None:
        """Take a generation and its fields as the present one."""
        self.generation, self._present = generation, fields

    def sync(self) -> None:
        """Wait until all that was written is on the disk."""
        with write_errors(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _place(self, field: str, generation: int, row: int) -> int:
        channels, height, width = self.shape
        before = (generation * len(self.names) + self.names.index(field)) * height + row
        return HEADER_BYTES + before * channels * width * VALUE_BYTES


def file_bytes(shape: tuple[int, int, int], fields: int) -> int:
    """Compute the size of a file with two generations of so many fields of `shape`."""
    return HEADER_BYTES + 2 * fields * VALUE_BYTES * shape[0] * shape[1] * shape[2]


class StoredLatents:
    """The latents of an image in a file of rows.

    The file is opened for each read: on a network's file system, a file that is opened shows what others have written.

    Args:
        rows: with the canvas as the present generation; closed by this.
        size: (H, W) of the image's latents, which may be less than the canvas.
    """

    def __init__(self, rows: FileRows, size: tuple[int, int]) -> None:
        self.shape = (1, rows.shape[0], *size)
        self._like, self._generation = rows, rows.generation
        rows.close()

    def rows(self, top: int, bottom: int) -> Tensor:
        """Read rows, (1, C, bottom - top, W) float32."""
        rows = FileRows(self._like.path, self._like.shape, self._like.names)
        try:
            rows.resume(self._generation, {CANVAS})
            return rows.read(CANVAS, top, bottom)[None, :, :, : self.shape[3]]
        finally:
            rows.close()


@dataclass(frozen=True)
class ComputedLatents:
    """Latents of which rows are computed when they are asked for."""

    shape: tuple[int, int, int, int]  # (1, C, H, W)
    rows: Callable[[int, int], Tensor]  # (top, bottom) -> (1, C, bottom - top, W) float32


Latents: TypeAlias = Tensor | StoredLatents | ComputedLatents  # (1, C, H, W) float32, of an image


def rows_of(latents: Latents, top: int, bottom: int) -> Tensor:
    """Take rows of an image's latents: (1, C, bottom - top, W)."""
    return latents[:, :, top:bottom] if isinstance(latents, Tensor) else latents.rows(top, bottom)


def in_memory(latents: Latents) -> Tensor:
    """Take all of an image's latents (1, C, H, W) into memory."""
    return rows_of(latents, 0, latents.shape[2])


def runs(mask: np.ndarray, first: int = 0) -> Iterator[tuple[int, int]]:
    """Find where a mask (n,) bool is True without a gap: (start, end) in turn, counted from `first`."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    for start, end in edges.reshape(-1, 2):
        yield first + int(start), first + int(end)
