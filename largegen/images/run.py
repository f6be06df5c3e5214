"""What functions that write an image's file have in common: what they take, and the lock, the progress, the end."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from largegen.embeddings.grid import EmbeddingGrid, SourceInfo
from largegen.images.finished import lock_outputs
from largegen.models.model import Model
from largegen.runtime.outputs import check_writable
from largegen.sampling.resume import Checkpoint, part_path
from largegen.sampling.stored_canvas import rows_path
from largegen.slides.image_info import ImageInfo, read_provenance


@dataclass(frozen=True)
class Writing:
    """How an image's file is written, whatever it shows."""

    command: str = ""  # for the provenance
    overwrite: bool = False  # whether the outputs may exist
    progress: bool = False  # show progress bars
    save_every_s: float = 30.0  # seconds between saves of the unfinished canvas


@dataclass
class Run:
    """A run that makes an image's file."""

    kept: bool  # the image is there, made by the same job: nothing is to be done
    checkpoint: Checkpoint  # what a killed run resumes from
    seconds: dict[str, float] = field(default_factory=dict)  # that its stages took
    _since: float = field(default_factory=time.perf_counter)

    def end_stage(self, name: str) -> None:
        """Note the time since the stage before as `<name>_seconds`."""
        now = time.perf_counter()
        self.seconds[f"{name}_seconds"], self._since = round(now - self._since, 2), now


def grid_to_come(
    model: Model, rows: int, cols: int, source: SourceInfo, origin_xy: tuple[int, int], downsample: float = 1.0
) -> EmbeddingGrid:
    """Describe the grid under an image whose embeddings (rows, cols, 0) are not known yet; all is tissue."""
    return EmbeddingGrid(
        features=np.zeros((rows, cols, 0), np.float32),
        tissue=np.ones((rows, cols), bool),
        background=np.zeros(model.info.embedding_dim, np.float32),
        tile_px=model.tile_px,
        overlap_px=0,
        downsample=downsample,
        origin_xy=origin_xy,
        encoder=model.info.encoder,
        licence=model.info.encoder_licence,
        source=source,
    )


@contextmanager
def running(
    out: Path,
    info: ImageInfo,
    fingerprint: str,
    writing: Writing,
    parts: Sequence[str] = (),
    beside: Path | None = None,
) -> Iterator[Run]:
    """Lock an output while it is made, and remove the progress once it is there.

    Args:
        out: of the image; its progress is kept in `.<out>.partial`.
        info: what the image will say of itself.
        fingerprint: of all that it depends on beside the settings.
        writing: how it is written.
        parts: of the work that have a progress of their own.
        beside: a file that belongs to the image.

    Raises:
        LockedError: while another process makes the same image.
        OutputError: for an image that exists already, or a disk that refuses it.
    """
    partial = out.with_name(f".{out.name}.partial")
    notes = partial, *(part_path(partial, name) for name in parts)
    partials = *notes, *map(rows_path, notes)
    with ExitStack() as stack:
        if beside is not None:
            ours = out.is_file() and (read_provenance(out) or {}).get("job") == info.provenance["job"]
            check_writable(beside, writing.overwrite or ours)
        there = lock_outputs(stack, out, {out: info}, writing.overwrite, *partials)
        kept = there and (beside is None or beside.is_file())
        yield Run(kept, Checkpoint(partial, fingerprint, writing.save_every_s))
        for path in partials:
            path.unlink(missing_ok=True)
