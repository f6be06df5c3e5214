"""The region around each tile as its context, for models conditioned on both [L]: at 5x where the tiles are at 20x."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from largegen.conditioning.area import ImageArea
from largegen.conditioning.reference import Reference, SlideOnDemand
from largegen.embeddings.cohort import differ_much
from largegen.embeddings.file import EmbeddingFile
from largegen.embeddings.grid import EmbeddingGrid
from largegen.errors import EmbeddingFileError, InputError
from largegen.models.encoder import Encoder, load_encoder
from largegen.models.model import Model

log = logging.getLogger(__name__)

CONTEXT_DOWNSAMPLE = 4  # px of the tiles' resolution per px of the regions' [L]


def with_region_context(reference: Reference, context_of: Callable[[ImageArea], EmbeddingGrid]) -> Reference:
    """Append to each tile's embedding that of the context it lies in.

    Args:
        reference: Gives the tiles' embeddings.
        context_of: Gives the contexts' embeddings, at least of those that touch an area of the reference.

    Returns:
        A reference like the first, whose embeddings are longer.
    """

    def grid(area: ImageArea) -> EmbeddingGrid:
        context_grid = context_of(area)  # first: it is smaller, and fails before the tiles' long work
        tiles = reference.grid(area)
        _warn_of_another_place(tiles, context_grid)
        features = np.concatenate([tiles.features, context_features(tiles, context_grid)], -1)
        return replace(tiles, features=features)

    return replace(reference, grid=grid)


def _warn_of_another_place(tiles: EmbeddingGrid, regions: EmbeddingGrid) -> None:
    """Say where regions are not of the size that they were in training, or seem to be of another slide."""
    ratio = regions.downsample / tiles.downsample
    if differ_much(ratio, CONTEXT_DOWNSAMPLE):
        log.warning(
            "`region_embeddings` %s: made at %.3g times the tiles' pixel size, where models are trained with %d times:"
            " what they say will be wrong",
            *(regions.source.name, ratio, CONTEXT_DOWNSAMPLE),
        )
    sizes = [(grid.source.width, grid.source.height) for grid in (regions, tiles)]
    side = regions.tile_px * regions.downsample  # what tells only of tiles with tissue knows the size no better
    if any(abs(one - other) > side for one, other in zip(*sizes, strict=True)):
        log.warning(
            "`region_embeddings` %s: of a slide of %dx%d px, the reference of one of %dx%d px: are they of the same?",
            *(regions.source.name, *sizes[0], *sizes[1]),
        )


def context_features(tiles: EmbeddingGrid, context_grid: EmbeddingGrid) -> np.ndarray:
    """Return the embedding (rows, cols, D') of the context tile that each tile's centre lies in, or the nearest one."""
    places = []
    for axis in (1, 0):  # rows, then columns
        start, stride = tiles.origin_xy[axis], (tiles.tile_px - tiles.overlap_px) * tiles.downsample
        centres = start + stride * np.arange(tiles.tissue.shape[1 - axis]) + tiles.tile_px * tiles.downsample / 2
        stride = (context_grid.tile_px - context_grid.overlap_px) * context_grid.downsample
        found = np.floor((centres - context_grid.origin_xy[axis]) / stride).astype(int)
        places.append(found.clip(0, context_grid.tissue.shape[1 - axis] - 1))
    return context_grid.features[np.ix_(*places)]


def context_from_file(model: Model, path: Path) -> Callable[[ImageArea], EmbeddingGrid]:
    """Take regions' embeddings from a file.

    Raises:
        EmbeddingFileError: Where it does not suit the model.
    """
    file = EmbeddingFile(path)
    _check_context(model, file)
    grid = file.grid()
    return lambda area: grid


def _check_context(model: Model, file: EmbeddingFile) -> None:
    settings, wanted = file.settings, model.info.region_encoder
    if settings.dim != model.region_dim or (wanted and settings.encoder != wanted):
        raise EmbeddingFileError(
            f"{file.path}: {settings.dim}-dimensional embeddings of {settings.encoder}, but model"
            f" {model.info.name} needs {model.region_dim}-dimensional ones of regions"
            f"{f', of {wanted}' if wanted else ''}"
        )


def context_from_slide(
    model: Model, source: SlideOnDemand, encoder_weights: Path | None = None
) -> Callable[[ImageArea], EmbeddingGrid]:
    """Embed the regions of a slide when they are asked for, with the encoder that the model names.

    Args:
        model: The model to condition.
        source: The slide, and how its tiles are embedded; its regions are so at a coarser resolution.
        encoder_weights: File of the region encoder's weights, where no hub has them.
    """
    options = replace(source.options, grid_xy=None)
    regions = replace(source, downsample=source.downsample * CONTEXT_DOWNSAMPLE, mag=None, options=options)
    tiles, (x, y) = regions.tiles(), source.options.grid_xy or (0, 0)
    side = source.tiles().stride_level0_px

    def encoder() -> Encoder:
        name = model.info.region_encoder or ""
        return load_encoder(name, encoder_weights, model.device, parameter="region_encoder_weights")

    embed = regions.embeddings(model, encoder, _check_context)

    def under(start: int, tile: int, count: int) -> int:
        """Find the region that the centre of a tile lies in, or the last one."""
        return min(int((start + (tile + 0.5) * side) / tiles.stride_level0_px), count - 1)

    def around(area: ImageArea) -> EmbeddingGrid:
        row, last_row = (under(y, tile, tiles.rows) for tile in (area.row, area.row + area.rows - 1))
        col, last_col = (under(x, tile, tiles.cols) for tile in (area.col, area.col + area.cols - 1))
        return embed((row, col, last_row - row + 1, last_col - col + 1))

    return around


def check_region_choice(model: Model, chosen: Sequence[str], embeddable: bool) -> None:
    """Check that a model's regions are taken care of in exactly one way, or that there are none.

    Args:
        model: The model to condition.
        chosen: Which of `region_embeddings`, `region_encoder_weights` and `no_region` are given.
        embeddable: There is a slide to embed the regions from.

    Raises:
        InputError: Where they are not.
    """
    name, encoder = model.info.name, model.info.region_encoder
    listed = ", ".join(f"`{option}`" for option in chosen)
    if chosen and not model.region_dim:
        raise InputError(f"{listed}: model {name} takes no embeddings of regions")
    if len(chosen) > 1:
        raise InputError(f"{listed}: give only one of them")
    if model.region_dim and chosen in ([], ["region_encoder_weights"]) and not (embeddable and encoder):
        raise InputError(
            f"model {name} also takes an embedding of the region around each tile"
            f"{f' ({encoder})' if encoder else ''}: give `region_embeddings` FILE.h5, made at"
            f" a {CONTEXT_DOWNSAMPLE}th of the magnification, or `no_region`"
        )
