"""The region around each tile as its context, for models conditioned on both [L]: at 5x where the tiles are at 20x."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from largegen.conditioning.area import ImageArea
from largegen.conditioning.reference import Reference, rectangles
from largegen.embeddings.file import EmbeddingFile
from largegen.embeddings.grid import EmbeddingGrid
from largegen.errors import EmbeddingFileError, InputError
from largegen.models.encoder import load_encoder
from largegen.models.model import Model
from largegen.slides.slide import Slide
from largegen.slides.tiles import tile_grid

CONTEXT_DOWNSAMPLE = 4  # px of the tiles' resolution per px of the regions' [L]
WEIGHTS_OPTION = "--region-encoder-weights"


def with_region_context(reference: Reference, context_of: Callable[[ImageArea], EmbeddingGrid]) -> Reference:
    """A reference whose tiles' embeddings are followed by those of the contexts that they lie in.

    context_of: gives the contexts' embeddings, at least of those that touch an area of the reference.
    """

    def grid(area: ImageArea) -> EmbeddingGrid:
        context_grid = context_of(area)  # first: it is smaller, and fails before the tiles' long work
        tiles = reference.grid(area)
        features = np.concatenate([tiles.features, context_features(tiles, context_grid)], -1)
        return replace(tiles, features=features)

    return replace(reference, grid=grid)


def context_features(tiles: EmbeddingGrid, context_grid: EmbeddingGrid) -> np.ndarray:
    """The embedding (rows, cols, D') of the context tile that each tile's centre lies in, or of the nearest one."""
    places = []
    for axis in (1, 0):  # rows, then columns
        start, stride = tiles.origin_xy[axis], (tiles.tile_px - tiles.overlap_px) * tiles.downsample
        centres = start + stride * np.arange(tiles.tissue.shape[1 - axis]) + tiles.tile_px * tiles.downsample / 2
        stride = (context_grid.tile_px - context_grid.overlap_px) * context_grid.downsample
        found = np.floor((centres - context_grid.origin_xy[axis]) / stride).astype(int)
        places.append(found.clip(0, context_grid.tissue.shape[1 - axis] - 1))
    return context_grid.features[np.ix_(*places)]


def context_from_file(model: Model, path: Path) -> Callable[[ImageArea], EmbeddingGrid]:
    """Regions' embeddings from a file. Raises EmbeddingFileError where it does not suit the model."""
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
    model: Model,
    slide: Slide,
    *,
    downsample: float,
    encoder_weights: Path | None = None,
    cache: Path | None = None,
    **settings: Any,
) -> Callable[[ImageArea], EmbeddingGrid]:
    """Regions of a slide, embedded when asked for with the encoder that the model names, or found in `cache`.

    downsample: level-0 px per px of the image; encoder_weights: a file, where no hub has them; settings: as
    embed.embed_slide takes them.
    """
    tiles = tile_grid(slide, downsample * CONTEXT_DOWNSAMPLE, model.tile_px)
    embed = rectangles(
        model,
        slide,
        lambda: load_encoder(model.info.region_encoder, encoder_weights, model.device, option=WEIGHTS_OPTION),
        _check_context,
        cache,
        downsample=downsample * CONTEXT_DOWNSAMPLE,
        **settings,
    )

    def around(area: ImageArea) -> EmbeddingGrid:
        row = min(area.row // CONTEXT_DOWNSAMPLE, tiles.rows - 1)
        col = min(area.col // CONTEXT_DOWNSAMPLE, tiles.cols - 1)
        last_row = min((area.row + area.rows - 1) // CONTEXT_DOWNSAMPLE, tiles.rows - 1)
        last_col = min((area.col + area.cols - 1) // CONTEXT_DOWNSAMPLE, tiles.cols - 1)
        return embed((row, col, last_row - row + 1, last_col - col + 1))

    return around


def check_region_choice(model: Model, chosen: Sequence[str], embeddable: bool) -> None:
    """Raise an InputError where a model's regions are not taken care of, in one way, or there are none to take care of.

    chosen: those that the user gave of --region-embeddings, --region-encoder-weights and --no-region; embeddable: there
    is a slide to embed them from.
    """
    name, encoder = model.info.name, model.info.region_encoder
    if chosen and not model.region_dim:
        raise InputError(f"{', '.join(chosen)}: model {name} takes no embeddings of regions")
    if len(chosen) > 1:
        raise InputError(f"{', '.join(chosen)}: give only one of them")
    if model.region_dim and chosen in ([], [WEIGHTS_OPTION]) and not (embeddable and encoder):
        raise InputError(
            f"model {name} also takes an embedding of the region around each tile"
            f"{f' ({encoder})' if encoder else ''}: give --region-embeddings FILE.h5, made at"
            f" a {CONTEXT_DOWNSAMPLE}th of the magnification, or --no-region"
        )
