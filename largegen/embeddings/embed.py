"""Embed a slide: the tiles that hold tissue, through the encoder, into an embedding file.

The work goes to `<file>.partial/` first (see partial.py), so that a run can be killed at any moment and the
same call resumes where it stopped.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from largegen.embeddings.file import EmbeddingFile, Settings, trident_attributes, write_embeddings
from largegen.embeddings.partial import Blocks
from largegen.errors import InputError, ModelError, OutputError
from largegen.runtime.files import atomic, write_errors
from largegen.runtime.lock import lock
from largegen.runtime.read_ahead import read_ahead
from largegen.slides.tiles import TileGrid, tile_grid, tissue_fraction
from largegen.slides.tissue import DATA_FRACTION, TISSUE_FRACTION, tissue_mask

if TYPE_CHECKING:
    from largegen.models.encoder import Encoder
    from largegen.slides.slide import Slide

log = logging.getLogger(__name__)


def embed_slide(
    slide: "Slide",
    encoder: "Encoder",
    out: Path,
    *,
    downsample: float,
    tile_px: int = 256,
    overlap_px: int = 0,
    tissue_threshold: float | None = None,
    tissue_filter: bool = True,
    batch_size: int = 32,
    workers: int = 2,
    region: tuple[int, int, int, int] | None = None,
    overwrite: bool = False,
    progress: bool = True,
    mag: float | None = None,
) -> Path:
    """Embed a slide's tiles and return the file: `<out>/<slide.name>.h5`.

    downsample: level-0 px per tile px; tissue_threshold: saturation in [0, 1] (Otsu's if None);
    batch_size: tiles that the encoder sees at once; workers: threads that read ahead; mag: the magnification
    that the user asked for, if any, to be recorded.

    `region` (row, column, rows, columns of the slide's tile grid) embeds only that rectangle, into
    `<out>/<slide.name>.<row>-<column>-<rows>x<columns>.<hash of the settings>.h5`: a cache without clashes.

    A complete file of the same settings is kept as it is, an interrupted run is continued. Raises InputError
    where no tile holds tissue or the region lies outside, SlideError for unreadable pixels, ModelError for
    embeddings that are not finite, LockedError while another process writes the file, and OutputError for a
    full disk or a file made with other settings (unless `overwrite`).
    """
    grid = tile_grid(slide, downsample, tile_px, overlap_px)
    keep = kept_tiles(slide, grid, tissue_threshold, tissue_filter)
    place = _checked_region(region, grid, slide)
    settings = Settings.of(
        slide,
        encoder,
        downsample=downsample,
        tile_px=tile_px,
        overlap_px=overlap_px,
        region=place,
        tissue_filter=_filter_name(slide, tissue_threshold, tissue_filter),
    )
    path = embedding_path(out, settings, whole=region is None)
    with lock(path):
        if path.exists() and not overwrite:
            return _existing(path, settings)
        row0, col0, rows, cols = place
        cells = np.argwhere(keep[row0 : row0 + rows, col0 : col0 + cols]) + np.array([row0, col0])
        if not len(cells):
            raise InputError(
                f"{slide.path}: no tile holds {'data' if slide.kind == 'scene' else 'tissue'}; "
                "lower --tissue-threshold or use --no-tissue-filter"
            )
        _check_space(path, len(cells) * (encoder.dim * 4 + 16))
        _embed(path, settings, slide, encoder, grid, cells, batch_size, workers, progress, mag)
    return path


def kept_tiles(
    slide: "Slide", grid: TileGrid, tissue_threshold: float | None = None, tissue_filter: bool = True
) -> np.ndarray:
    """(rows, cols) bool: the tiles that hold enough tissue, or data in a scene; all without the filter."""
    if not tissue_filter:
        return np.ones((grid.rows, grid.cols), bool)
    fraction = tissue_fraction(grid, slide, tissue_mask(slide, tissue_threshold))
    return fraction >= (DATA_FRACTION if slide.kind == "scene" else TISSUE_FRACTION)


def embedding_path(out: Path, settings: Settings, whole: bool = True) -> Path:
    """The file that embeddings of these settings go to; that of a region tells which region, and a hash."""
    if whole:
        return Path(out) / f"{settings.source_name}.h5"
    row, col, rows, cols = settings.region
    relevant = {key: value for key, value in settings.as_dict().items() if key != "source_path"}
    digest = hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:8]
    return Path(out) / f"{settings.source_name}.{row}-{col}-{rows}x{cols}.{digest}.h5"


def _checked_region(
    region: tuple[int, int, int, int] | None, grid: TileGrid, slide: "Slide"
) -> tuple[int, int, int, int]:
    if region is None:
        return (0, 0, grid.rows, grid.cols)
    row, col, rows, cols = (int(v) for v in region)
    if row < 0 or col < 0 or rows < 1 or cols < 1 or row + rows > grid.rows or col + cols > grid.cols:
        raise InputError(
            f"{slide.path}: {rows}x{cols} tiles from row {row}, column {col} do not lie in its grid of "
            f"{grid.rows}x{grid.cols} tiles"
        )
    return (row, col, rows, cols)


def _filter_name(slide: "Slide", threshold: float | None, on: bool) -> str:
    if not on:
        return "none"
    if slide.kind == "scene":
        return "data"
    return "otsu" if threshold is None else f"saturation > {threshold:g}"


def _existing(path: Path, settings: Settings) -> Path:
    difference = EmbeddingFile(path).settings.difference(settings)
    if difference:
        raise OutputError(f"{path}: exists with other settings ({difference}); use --overwrite or another --out")
    log.info("%s: up to date, kept", path)
    return path


def _check_space(path: Path, needed: int) -> None:
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
    if free < 2 * needed:  # the blocks, and the file made of them
        raise OutputError(
            f"{path}: no space left on the disk: needs {2 * needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are "
            "free; free some or choose another --out"
        )


def _embed(
    path: Path,
    settings: Settings,
    slide: "Slide",
    encoder: "Encoder",
    grid: TileGrid,
    cells: np.ndarray,
    batch_size: int,
    workers: int,
    progress: bool,
    mag: float | None,
) -> None:
    from tqdm import tqdm

    coords = np.array([grid.xy(row, col) for row, col in cells], np.int64)
    blocks = Blocks(path, settings, len(cells))
    try:
        glass = np.broadcast_to(np.array(slide.background, np.uint8), (1, grid.tile_px, grid.tile_px, 3))
        background = _finite(encoder.encode(np.ascontiguousarray(glass)), encoder)[0]
        bar = tqdm(
            total=len(cells),
            initial=blocks.done,
            unit="tile",
            desc=slide.name,
            disable=None if progress else True,
        )
        with bar:
            for tiles in _read_batches(slide, grid, coords[blocks.done :], batch_size, workers):
                blocks.append(_finite(encoder.encode(tiles), encoder))
                bar.update(len(tiles))
        blocks.flush()
        with atomic(path) as temporary:
            write_embeddings(
                temporary,
                settings,
                coords,
                blocks.joined(),
                background,
                trident_attributes(path, settings, slide.magnification, mag),
            )
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            blocks.flush()
        blocks.drop_if_empty()
        raise
    blocks.remove()


def _read_batches(
    slide: "Slide", grid: TileGrid, coords: np.ndarray, batch_size: int, workers: int
) -> Iterator[np.ndarray]:
    """Read tiles in order, ahead of their use: (B, tile_px, tile_px, 3) uint8, only the last one smaller."""

    def read(xy: np.ndarray) -> np.ndarray:
        return slide.read(int(xy[0]), int(xy[1]), grid.tile_px, grid.tile_px, grid.downsample)

    with closing(read_ahead(read, coords, workers, 2 * batch_size + workers)) as tiles:
        while batch := list(islice(tiles, batch_size)):
            yield np.stack(batch)


def _finite(embeddings: np.ndarray, encoder: "Encoder") -> np.ndarray:
    if not np.isfinite(embeddings).all():
        raise ModelError(f"encoder {encoder.spec.name}: gives values that are not finite; try --precision fp32")
    return embeddings
