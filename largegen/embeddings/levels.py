"""Features of one slide at several magnifications: tiles of 2^k x 2^k base tiles, and all in one row per base tile."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from largegen.embeddings.file import EmbeddingFile, keep_existing, write_embeddings
from largegen.errors import EmbeddingFileError
from largegen.runtime.files import atomic
from largegen.runtime.lock import lock
from largegen.slides.tiles import TileGrid


def coarser(grid: TileGrid, keep: np.ndarray, level: int) -> tuple[TileGrid, np.ndarray]:
    """Lay tiles of 2^level x 2^level base tiles; the last ones may stick out of the slide.

    Args:
        grid: The base tiles.
        keep: (rows, cols) bool, of these.
        level: 0 gives them back.

    Returns:
        The coarser grid, of the same resolution, and (rows, cols) bool: tiles that hold a base tile that is kept.
    """
    side = 2**level
    rows, cols = -(-grid.rows // side), -(-grid.cols // side)
    padded = np.pad(keep, ((0, rows * side - grid.rows), (0, cols * side - grid.cols)))
    held = np.asarray(padded.reshape(rows, side, cols, side).any((1, 3)))
    return replace(grid, rows=rows, cols=cols, tile_px=grid.tile_px * side), held


def join_levels(paths: Sequence[Path], out: Path, *, overwrite: bool = False) -> Path:
    """Put the features of several levels into one file: a row for each base tile, those of coarser ones repeated to it.

    Args:
        paths: Files of one slide, the finest level first, which is the base.
        out: The file to write; one of the same settings is kept.
        overwrite: Replace a file made with other settings.

    Returns:
        `out`.

    Raises:
        EmbeddingFileError: Where a coarser file lacks a tile.
        OutputError: For a file made with other settings, unless `overwrite`.
    """
    files = [EmbeddingFile(path) for path in paths]
    base = files[0]
    settings = replace(
        base.settings,
        encoder=" + ".join(file.settings.encoder for file in files),
        encoder_fingerprint="".join(file.settings.encoder_fingerprint for file in files),
        dim=sum(file.dim for file in files),
    )
    with lock(out):
        if out.exists() and not overwrite:
            return keep_existing(out, settings)
        features = np.concatenate([_rows_of(base, file) for file in files], axis=1)
        background = np.concatenate([file.background for file in files])
        with atomic(out) as temporary:
            write_embeddings(temporary, settings, base.coords(), features, background, base.coords_attrs)
    return out


def _rows_of(base: EmbeddingFile, file: EmbeddingFile) -> np.ndarray:
    """Read the features that lie over each tile of a base: (N, D)."""
    index = np.full(file.settings.region[2:], -1)
    index[tuple(file.cells.T)] = np.arange(file.count)
    rows = index[tuple(base.cells.T // (file.settings.tile_px // base.settings.tile_px))]
    if (rows < 0).any():
        raise EmbeddingFileError(f"{file.path}: lacks tiles that {base.path} has; remove both and begin anew")
    return np.asarray(file.features()[rows])
