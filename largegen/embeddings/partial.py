"""Embeddings on their way to a file: blocks that appear whole or not at all, so that a kill loses seconds."""

import io
import json
import logging
import os
import time
from pathlib import Path

import numpy as np

from largegen.embeddings.settings import EmbeddingSettings
from largegen.errors import OutputError
from largegen.runtime.files import atomic, not_damaged, remove, remove_leftovers, write_errors, write_json

log = logging.getLogger(__name__)

FLUSH_S = 10.0  # seconds of work that a kill may cost


class Blocks:
    """The embeddings that are done: `<path>.partial/<first tile>.npy`, each (n, D) float32.

    Blocks of an earlier run are taken over if its settings were the same. They end on a batch, so a continued
    run of the same batch size computes the same batches as an uninterrupted one.
    """

    def __init__(self, path: Path, settings: EmbeddingSettings, total: int):
        self.directory = self._directory(path)
        self.total, self.done = total, 0
        self._files: list[Path] = []
        self._waiting: list[np.ndarray] = []
        self._flushed = time.monotonic()
        self._take_over(settings)

    @staticmethod
    def _directory(path: Path) -> Path:
        return path.with_name(f"{path.name}.partial")

    @classmethod
    def left_behind(cls, path: Path) -> bool:
        """Tell whether a killed run has left blocks of a file, or a lock or half of a file beside it."""
        partial = cls._directory(path)
        return any(
            beside.name.startswith((partial.name, f".{path.name}.", f"{path.name}.lock"))
            for beside in path.parent.iterdir()
        )

    @classmethod
    def clear(cls, path: Path) -> None:
        """Delete what a killed run has left of a file that is complete; only for who holds its lock."""
        remove(cls._directory(path))
        remove_leftovers(path, parts=True)

    def _take_over(self, settings: EmbeddingSettings) -> None:
        record = self.directory / "settings.json"
        with write_errors(self.directory):
            if self.directory.exists():
                try:
                    earlier = EmbeddingSettings.from_dict(json.loads(record.read_text(encoding="utf-8")))
                except (OSError, ValueError, KeyError, TypeError) as error:
                    not_damaged(error, record)
                    earlier = None
                    others = [file for file in self.directory.iterdir() if file.name[0] != "."]
                    if others and not record.exists():
                        raise OutputError(
                            f"{self.directory}: is in the way; rename it or choose another `out`"
                        ) from None
                if earlier is None or earlier.difference(settings):
                    log.info("%s: of other settings; starting over", self.directory)
                    remove(self.directory)
            self.directory.mkdir(parents=True, exist_ok=True)
            write_json(record, settings.as_dict())
        while (file := self.directory / f"{self.done:09d}.npy").exists() and self.done < self.total:
            try:
                rows, dim = np.load(file, mmap_mode="r").shape
            except (OSError, ValueError, EOFError) as error:
                not_damaged(error, file)
                break  # lost its content in a crash of the machine
            if dim != settings.dim or not 0 < rows <= self.total - self.done:
                break
            self._files.append(file)
            self.done += rows
        if self.done:
            log.info("%s: resuming after %d of %d tiles", self.directory.stem, self.done, self.total)

    def append(self, embeddings: np.ndarray) -> None:
        """Add a batch (n, D) float32; it reaches the disk within FLUSH_S seconds of appending."""
        self._waiting.append(embeddings)
        if time.monotonic() - self._flushed >= FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Write what waits as one block."""
        if self._waiting:
            block = np.concatenate(self._waiting).astype(np.float32)
            file = self.directory / f"{self.done:09d}.npy"
            content = io.BytesIO()  # NumPy would hide the reason of a failed write to a real file
            np.save(content, block)
            with atomic(file) as temporary, temporary.open("wb") as handle:
                handle.write(content.getbuffer())
                handle.flush()
                os.fsync(handle.fileno())
            self._files.append(file)
            self.done += len(block)
            self._waiting = []
        self._flushed = time.monotonic()

    def joined(self) -> np.ndarray:
        """Read all of them in order: (done, D) float32."""
        return np.concatenate([np.load(file) for file in self._files])

    def drop_if_empty(self) -> None:
        """Leave no directory behind where there is nothing to resume from."""
        if not self._files:
            self.remove()

    def remove(self) -> None:
        """Delete the blocks, once the file is complete."""
        remove(self.directory)
