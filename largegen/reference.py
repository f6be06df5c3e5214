"""Which part of a reference a picture is made from: its size, its place, and the grid of embeddings under it."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accelerate import PartialState

from largegen.embedding_file import EmbeddingFile, EmbeddingGrid
from largegen.embeddings import embed_slide, kept_tiles
from largegen.encoders import encoder_names, load_encoder
from largegen.errors import EmbeddingFileError, InputError
from largegen.model import Model
from largegen.slide import Slide
from largegen.tiles import tile_grid


@dataclass(frozen=True)
class Region:
    """A picture's size and the rectangle of tiles that it needs."""

    width: int  # px, at the working resolution
    height: int
    row: int  # first tile
    col: int
    rows: int  # tiles
    cols: int
    full: bool  # the whole reference


def parse_size(text: str) -> tuple[int, int] | None:
    """`N` or `WxH` in pixels -> (width, height); `full` -> None. Raises InputError for anything else."""
    if text.lower() == "full":
        return None
    match = re.fullmatch(r"(\d+)(?:[xX](\d+))?", text.strip())
    if not match:
        raise InputError(f"--size {text}: give N, WxH (pixels) or full")
    return int(match[1]), int(match[2] or match[1])


def parse_region(text: str) -> tuple[int, int]:
    """`X,Y` in level-0 pixels -> (x, y)."""
    match = re.fullmatch(r"(\d+),(\d+)", text.replace(" ", ""))
    if not match:
        raise InputError(f"--region {text}: give X,Y, the top-left corner in level-0 pixels")
    return int(match[1]), int(match[2])


def choose_region(
    size: tuple[int, int] | None,
    tissue: np.ndarray,
    tile_px: int,
    factor: int,
    level0_xy: tuple[float, float] | None = None,
    tile_level0_px: float = 1.0,
) -> Region:
    """Lay a picture over a grid of tiles.

    size: (width, height) in px, None for all of the grid; tissue: (rows, cols) bool; factor: px per latent.
    level0_xy: the wanted top-left corner, relative to the grid's own, rounded down to a tile; by default the place with
    most tissue. Raises InputError for a size that the grid or the model's latents do not allow.
    """
    grid_rows, grid_cols = tissue.shape
    if size is None:
        return Region(grid_cols * tile_px, grid_rows * tile_px, 0, 0, grid_rows, grid_cols, full=True)
    width, height = size
    if min(width, height) < tile_px or width % factor or height % factor:
        raise InputError(f"--size {width}x{height}: sides must be at least {tile_px} px and multiples of {factor}")
    rows, cols = -(-height // tile_px), -(-width // tile_px)
    if rows > grid_rows or cols > grid_cols:
        raise InputError(
            f"--size {width}x{height}: the reference is too small at this resolution;"
            f" the largest size that fits is {grid_cols * tile_px}x{grid_rows * tile_px}"
        )
    if level0_xy is None:
        row, col = most_tissue(tissue, rows, cols)
    else:
        col, row = (int(v // tile_level0_px) for v in level0_xy)
        if row + rows > grid_rows or col + cols > grid_cols or min(row, col) < 0:
            last = f"{int((grid_cols - cols) * tile_level0_px)},{int((grid_rows - rows) * tile_level0_px)}"
            raise InputError(f"--region: {width}x{height} px from there leave the reference; the last place is {last}")
    return Region(width, height, row, col, rows, cols, full=False)


def most_tissue(tissue: np.ndarray, rows: int, cols: int) -> tuple[int, int]:
    """(row, col) of the rows x cols rectangle that holds most tissue tiles; of equals, the most central."""
    integral = np.pad(tissue.astype(np.int64), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    counts = integral[rows:, cols:] - integral[:-rows, cols:] - integral[rows:, :-cols] + integral[:-rows, :-cols]
    best = np.argwhere(counts == counts.max())
    middle = (np.array(counts.shape) - 1) / 2
    row, col = best[np.square(best - middle).sum(1).argmin()]
    return int(row), int(col)


def pure_background(grid: EmbeddingGrid, height: int, width: int, window: int) -> np.ndarray:
    """(height, width) bool over a canvas of latents: tiles without tissue, all of whose neighbours are without too.

    A tile that touches tissue is not pure, so that tissue does not end at a tile's border.
    """
    padded = np.pad(grid.tissue, 1)
    rows, cols = grid.tissue.shape
    near = np.zeros_like(grid.tissue)
    for i in range(3):
        for j in range(3):
            near |= padded[i : i + rows, j : j + cols]
    return (~near).repeat(window, 0).repeat(window, 1)[:height, :width]


def grid_of_file(
    model: Model, path: Path, size: tuple[int, int] | None, corner: tuple[int, int] | None
) -> tuple[EmbeddingGrid, Region]:
    """The region of an embedding file that a picture needs. Raises EmbeddingFileError and InputError."""
    file = EmbeddingFile(path)
    check_embeddings(model, file)
    grid = file.grid()
    return _crop(model, grid, size, corner)


def grid_of_slide(
    model: Model,
    slide: Slide,
    size: tuple[int, int] | None,
    corner: tuple[int, int] | None,
    *,
    downsample: float,
    mag: float | None = None,
    tissue_threshold: float | None = None,
    tissue_filter: bool = True,
    encoder_weights: Path | None = None,
    cache: Path | None = None,
    progress: bool = False,
) -> tuple[EmbeddingGrid, Region]:
    """Embed the tiles of a slide that a picture needs, with the model's own encoder, or find them in `cache`.

    downsample: level-0 px per px of the picture; see embeddings.embed_slide for the rest.
    """
    grid = tile_grid(slide, downsample, model.tile_px)
    tissue = kept_tiles(slide, grid, tissue_threshold, tissue_filter)
    region = choose_region(size, tissue, model.tile_px, model.factor, corner, grid.stride_level0_px)
    own = (model.directory or Path()) / "encoder"
    name = model.info["encoder"]
    if name not in encoder_names() and own.is_dir():
        name = f"local-dir:{own}"
    with PartialState().main_process_first():
        path = embed_slide(
            slide,
            load_encoder(name, encoder_weights, model.device),
            cache or cache_directory(),
            downsample=downsample,
            tile_px=model.tile_px,
            tissue_threshold=tissue_threshold,
            tissue_filter=tissue_filter,
            region=(region.row, region.col, region.rows, region.cols),
            progress=progress,
            mag=mag,
        )
    file = EmbeddingFile(path)
    check_embeddings(model, file)
    return file.grid(), region


def _crop(
    model: Model, grid: EmbeddingGrid, size: tuple[int, int] | None, corner: tuple[int, int] | None
) -> tuple[EmbeddingGrid, Region]:
    relative = corner and (corner[0] - grid.origin_xy[0], corner[1] - grid.origin_xy[1])
    tile = (grid.tile_px - grid.overlap_px) * grid.downsample
    region = choose_region(size, grid.tissue, model.tile_px, model.factor, relative, tile)
    return grid.crop(region.row, region.col, region.rows, region.cols), region


def check_embeddings(model: Model, file: EmbeddingFile) -> None:
    """Raise an EmbeddingFileError where a model cannot be conditioned on an embedding file."""
    info, settings = model.info, file.settings
    name = info["name"]
    if settings.width != info["embedding_dim"]:
        raise EmbeddingFileError(
            f"{file.path}: embeddings of width {settings.width}, of {settings.encoder}, but model {name} needs"
            f" {info['embedding_dim']}, of {info['encoder']}"
        )
    if settings.tile_px != model.tile_px or settings.overlap_px:
        raise EmbeddingFileError(
            f"{file.path}: tiles of {settings.tile_px} px with an overlap of {settings.overlap_px} px, but model {name}"
            f" needs {model.tile_px} px without overlap"
        )
    if info["encoder_fingerprint"] != settings.encoder_fingerprint:
        raise EmbeddingFileError(
            f"{file.path}: embeddings of {settings.encoder} ({settings.encoder_fingerprint}), but model {name} was"
            f" trained with {info['encoder']} ({info['encoder_fingerprint']})"
        )


def cache_directory() -> Path:
    """Where embedded regions are kept: `$XDG_CACHE_HOME/largegen`, or `~/.cache/largegen`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "largegen"
