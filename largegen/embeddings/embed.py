"""Embed a slide: the tiles that hold tissue, through the encoder, into an embedding file.

The work goes to `<file>.partial/` first (see partial.py), so that a run can be killed at any moment and the
same call resumes where it stopped.
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from largegen.embeddings.file import keep_existing, write_embeddings
from largegen.embeddings.options import EmbedOptions
from largegen.embeddings.partial import Blocks
from largegen.embeddings.settings import EmbeddingSettings, trident_attributes
from largegen.errors import InputError, ModelError, OutputError
from largegen.runtime.files import atomic, remove_leftovers, write_errors
from largegen.runtime.lock import lock
from largegen.runtime.read_ahead import read_ahead
from largegen.slides.tiles import TileGrid, tile_grid, tissue_fraction
from largegen.slides.tissue import EMBEDDED_TILE, tissue_mask

if TYPE_CHECKING:
    from largegen.models.encoder import Encoder
    from largegen.models.tile_encoder import TileEncoder
    from largegen.slides.slide import Slide

log = logging.getLogger(__name__)

TRIAL_TILES = 4  # that an estimate embeds to see how long one takes
Rectangle = tuple[int, int, int, int]  # row, column, rows, columns of a slide's tile grid


@dataclass(frozen=True)
class EmbedEstimate:
    """What embedding a slide would take."""

    tiles: int  # that hold tissue
    rows: int  # of the grid
    columns: int
    seconds: float  # as long as a few tiles take here
    memory_mb: float
    disk_mb: float


def embed_slide(
    slide: "Slide",
    encoder: "TileEncoder",
    out: Path,
    options: EmbedOptions | None = None,
    *,
    downsample: float,
    mag: float | None = None,
    region: Rectangle | None = None,
    plan: tuple[TileGrid, np.ndarray] | None = None,
    overwrite: bool = False,
    wait: bool = False,
    progress: bool = True,
) -> Path:
    """Embed a slide's tiles into `<out>/<slide.name>.h5`.

    A complete file of the same settings is kept as it is; an interrupted run is resumed.

    Args:
        slide: The slide or scene, open.
        encoder: Turns tiles into embeddings.
        out: Directory of the file.
        options: Tiles, tissue filter and work; the defaults if None.
        downsample: Level-0 px per tile px.
        mag: The magnification that the user asked for, if any, to be recorded.
        region: Embed only this rectangle of the slide's tile grid, into
            `<out>/<slide.name>.<row>-<column>-<rows>x<columns>.<hash of the settings>.h5`: a cache without clashes.
        plan: The tile grid and which of its tiles are embedded, where that is not what `plan_tiles` finds, or known.
        overwrite: Replace a file made with other settings.
        wait: Wait, where another process writes the file.
        progress: Show a progress bar, where stderr is a terminal.

    Returns:
        The file.

    Raises:
        InputError: Where no tile holds tissue, or the region lies outside the slide.
        SlideError: For unreadable pixels.
        ModelError: For embeddings that are not finite.
        LockedError: While another process writes the file, unless `wait`.
        OutputError: For a full disk, or a file made with other settings (unless `overwrite`).
    """
    options = options or EmbedOptions()
    grid, keep = plan or plan_tiles(slide, downsample, options)
    area = _checked_region(region, grid, slide)
    settings = EmbeddingSettings.of(
        slide,
        encoder,
        downsample=downsample,
        tile_px=options.tile_px,
        overlap_px=options.overlap_px,
        region=area,
        tissue_filter=_filter_name(slide, options),
        grid_xy=options.grid_xy,
    )
    path = embedding_path(out, settings, whole=region is None)
    if path.exists() and not overwrite and not Blocks.left_behind(path):
        return keep_existing(path, settings)  # whole, and no lock is needed: it may lie where nothing can be written
    with lock(path, wait):
        if path.exists() and not overwrite:
            kept = keep_existing(path, settings)
            Blocks.clear(path)
            return kept
        remove_leftovers(path, parts=True)
        row0, col0, rows, cols = area
        cells = np.argwhere(keep[row0 : row0 + rows, col0 : col0 + cols]) + np.array([row0, col0])
        if not len(cells):
            raise InputError(
                f"{slide.path}: no tile holds {'data' if slide.kind == 'scene' else 'tissue'}; "
                "lower `tissue_threshold` or use `tissue_filter=False`"
            )
        _check_space(path, len(cells) * _bytes_per_tile(encoder))
        coords = np.array([grid.xy(row, col) for row, col in cells], np.int64)
        blocks = Blocks(path, settings, len(cells))
        try:
            background = _background(slide, encoder, options.tile_px)
            _embed_tiles(slide, encoder, grid, coords, blocks, options, progress)
            with atomic(path) as temporary:
                attributes = trident_attributes(path, settings, slide.magnification, mag)
                write_embeddings(temporary, settings, coords, blocks.joined(), background, attributes)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                blocks.flush()
            blocks.drop_if_empty()
            raise
        blocks.remove()
    return path


def estimate(slide: "Slide", encoder: "Encoder", options: EmbedOptions, downsample: float) -> EmbedEstimate:
    """Estimate what `embed_slide` would take: time from how long a few tiles take here, memory and disk from sizes."""
    grid, keep = plan_tiles(slide, downsample, options)
    tiles = int(keep.sum())
    trial = np.argwhere(keep)[:TRIAL_TILES]
    started = time.perf_counter()
    if tiles:
        encoder.encode(np.stack([_read_tile(slide, grid, grid.xy(row, col)) for row, col in trial]))
    seconds = (time.perf_counter() - started) / max(1, len(trial))
    weights = sum(p.numel() * p.element_size() for p in encoder.net.parameters())
    waiting = 3 * options.batch_size * grid.tile_px**2 * 3
    activations = 8 * options.batch_size * encoder.spec.input_px**2 * 3 * 4
    return EmbedEstimate(
        tiles=tiles,
        rows=grid.rows,
        columns=grid.cols,
        seconds=round(seconds * tiles, 1),
        memory_mb=round((weights + waiting + activations) / 1e6, 1),
        disk_mb=round(tiles * _bytes_per_tile(encoder) / 1e6, 3),
    )


def plan_tiles(slide: "Slide", downsample: float, options: EmbedOptions) -> tuple[TileGrid, np.ndarray]:
    """Lay the tile grid over a slide and find the tiles to embed.

    Returns:
        The grid, and (rows, cols) bool: the tiles that hold enough tissue, or data in a scene; all without the filter.
    """
    grid = tile_grid(slide, downsample, options.tile_px, options.overlap_px, options.grid_xy)
    if not options.tissue_filter:
        return grid, np.ones((grid.rows, grid.cols), bool)
    fraction = tissue_fraction(grid, slide, tissue_mask(slide, options.tissue_threshold))
    return grid, fraction >= EMBEDDED_TILE.of(slide.kind)


def embedding_path(out: Path, settings: EmbeddingSettings, whole: bool = True) -> Path:
    """Return the file that embeddings of these settings go to; that of a region names the region and a hash."""
    if whole:
        return Path(out) / f"{settings.source_name}.h5"
    row, col, rows, cols = settings.region
    relevant = {key: value for key, value in settings.as_dict().items() if key != "source_path"}
    digest = hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:8]
    return Path(out) / f"{settings.source_name}.{row}-{col}-{rows}x{cols}.{digest}.h5"


def _bytes_per_tile(encoder: "TileEncoder") -> int:
    return encoder.dim * 4 + 16  # float32, and two int64


def _checked_region(region: Rectangle | None, grid: TileGrid, slide: "Slide") -> Rectangle:
    if region is None:
        return (0, 0, grid.rows, grid.cols)
    row, col, rows, cols = (int(v) for v in region)
    if row < 0 or col < 0 or rows < 1 or cols < 1 or row + rows > grid.rows or col + cols > grid.cols:
        raise InputError(
            f"{slide.path}: {rows}x{cols} tiles from row {row}, column {col} do not lie in its grid of "
            f"{grid.rows}x{grid.cols} tiles"
        )
    return (row, col, rows, cols)


def _filter_name(slide: "Slide", options: EmbedOptions) -> str:
    if not options.tissue_filter:
        return "none"
    if slide.kind == "scene":
        return "data"
    return "otsu" if options.tissue_threshold is None else f"saturation > {options.tissue_threshold:g}"


def _check_space(path: Path, needed: int) -> None:
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
    if free < 2 * needed:  # the blocks, and the file made of them
        raise OutputError(
            f"{path}: no space left on the disk: needs {2 * needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are "
            "free; free some or choose another `out`"
        )


def _background(slide: "Slide", encoder: "TileEncoder", tile_px: int) -> np.ndarray:
    """Embed a tile of the background colour: (D,) float32."""
    glass = np.broadcast_to(np.array(slide.background, np.uint8), (1, tile_px, tile_px, 3))
    embedding: np.ndarray = _finite(encoder.encode(np.ascontiguousarray(glass)), encoder)[0]
    return embedding


def _embed_tiles(
    slide: "Slide",
    encoder: "TileEncoder",
    grid: TileGrid,
    coords: np.ndarray,
    blocks: Blocks,
    options: EmbedOptions,
    progress: bool,
) -> None:
    """Embed the tiles at `coords` (N, 2) that are not in `blocks` yet."""
    from tqdm import tqdm

    disable = None if progress else True
    with tqdm(total=len(coords), initial=blocks.done, unit="tile", desc=slide.name, disable=disable) as bar:
        for tiles in _read_batches(slide, grid, coords[blocks.done :], options.batch_size, options.workers):
            blocks.append(_finite(encoder.encode(tiles), encoder))
            bar.update(len(tiles))
    blocks.flush()


def _read_tile(slide: "Slide", grid: TileGrid, xy: tuple[int, int]) -> np.ndarray:
    """Read the tile with this level-0 corner: (tile_px, tile_px, 3) uint8."""
    return slide.read(int(xy[0]), int(xy[1]), grid.tile_px, grid.tile_px, grid.downsample)


def _read_batches(
    slide: "Slide", grid: TileGrid, coords: np.ndarray, batch_size: int, workers: int
) -> Iterator[np.ndarray]:
    """Read tiles in order, ahead of their use: (B, tile_px, tile_px, 3) uint8, only the last one smaller."""
    read = partial(_read_tile, slide, grid)
    with closing(read_ahead(read, coords, workers, 2 * batch_size + workers)) as tiles:
        while batch := list(islice(tiles, batch_size)):
            yield np.stack(batch)


def _finite(embeddings: np.ndarray, encoder: "TileEncoder") -> np.ndarray:
    if not np.isfinite(embeddings).all():
        raise ModelError(f"encoder {encoder.spec.name}: gives values that are not finite; try `precision` fp32")
    return embeddings
