"""The wider region around each tile, for models that are conditioned on both [L]: at 5x where the tiles are at 20x."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from largegen.conditioning.area import Region
from largegen.conditioning.reference import Reference, rectangles
from largegen.embeddings.file import EmbeddingFile
from largegen.embeddings.grid import EmbeddingGrid
from largegen.errors import EmbeddingFileError, InputError
from largegen.models.encoder import load_encoder
from largegen.models.model import Model
from largegen.slides.slide import Slide
from largegen.slides.tiles import tile_grid

SHRINK = 4  # px of the tiles' resolution per px of the regions' [L]
WEIGHTS_OPTION = "--region-encoder-weights"


def with_surroundings(reference: Reference, wider: Callable[[Region], EmbeddingGrid]) -> Reference:
    """A reference whose tiles' embeddings are followed by those of the regions that they lie in.

    wider: gives the regions' embeddings, of at least those that touch a region of the reference.
    """

    def grid(region: Region) -> EmbeddingGrid:
        regions = wider(region)  # first: they are fewer, and what goes wrong is told before the tiles' long work
        tiles = reference.grid(region)
        return replace(tiles, features=np.concatenate([tiles.features, features_around(tiles, regions)], -1))

    return replace(reference, grid=grid)


def features_around(tiles: EmbeddingGrid, wider: EmbeddingGrid) -> np.ndarray:
    """The embedding (rows, cols, D') of the wider tile that each tile's centre lies in, or of the nearest one."""
    places = []
    for axis in (1, 0):  # rows, then columns
        start, stride = tiles.origin_xy[axis], (tiles.tile_px - tiles.overlap_px) * tiles.downsample
        centres = start + stride * np.arange(tiles.tissue.shape[1 - axis]) + tiles.tile_px * tiles.downsample / 2
        wider_stride = (wider.tile_px - wider.overlap_px) * wider.downsample
        found = np.floor((centres - wider.origin_xy[axis]) / wider_stride).astype(int)
        places.append(found.clip(0, wider.tissue.shape[1 - axis] - 1))
    return wider.features[np.ix_(*places)]


def surroundings_of_file(model: Model, path: Path) -> Callable[[Region], EmbeddingGrid]:
    """Regions' embeddings from a file. Raises EmbeddingFileError where it does not suit the model."""
    file = EmbeddingFile(path)
    _check_regions(model, file)
    grid = file.grid()
    return lambda region: grid


def _check_regions(model: Model, file: EmbeddingFile) -> None:
    settings, wanted = file.settings, model.info.get("region_encoder")
    if settings.width != model.region_dim or (wanted and settings.encoder != wanted):
        raise EmbeddingFileError(
            f"{file.path}: embeddings of width {settings.width}, of {settings.encoder}, but model"
            f" {model.info['name']} needs those of regions of width {model.region_dim}"
            f"{f', of {wanted}' if wanted else ''}"
        )


def surroundings_of_slide(
    model: Model,
    slide: Slide,
    *,
    downsample: float,
    encoder_weights: Path | None = None,
    cache: Path | None = None,
    **settings: Any,
) -> Callable[[Region], EmbeddingGrid]:
    """Regions of a slide, embedded when asked for with the encoder that the model names, or found in `cache`.

    downsample: level-0 px per px of the picture; encoder_weights: a file, where no hub has them; settings: as
    embed.embed_slide takes them.
    """
    tiles = tile_grid(slide, downsample * SHRINK, model.tile_px)
    embed = rectangles(
        model,
        slide,
        lambda: load_encoder(model.info["region_encoder"], encoder_weights, model.device, option=WEIGHTS_OPTION),
        _check_regions,
        cache,
        downsample=downsample * SHRINK,
        **settings,
    )

    def around(region: Region) -> EmbeddingGrid:
        row, col = min(region.row // SHRINK, tiles.rows - 1), min(region.col // SHRINK, tiles.cols - 1)
        last_row = min((region.row + region.rows - 1) // SHRINK, tiles.rows - 1)
        last_col = min((region.col + region.cols - 1) // SHRINK, tiles.cols - 1)
        return embed((row, col, last_row - row + 1, last_col - col + 1))

    return around


def check_region_choice(model: Model, chosen: Sequence[str], embeddable: bool) -> None:
    """Raise an InputError where a model's regions are not taken care of, in one way, or there are none to take care of.

    chosen: those that the user gave of --region-embeddings, --region-encoder-weights and --no-region; embeddable: there
    is a slide to embed them from.
    """
    name, encoder = model.info["name"], model.info.get("region_encoder")
    if chosen and not model.region_dim:
        raise InputError(f"{', '.join(chosen)}: model {name} takes no embeddings of regions")
    if len(chosen) > 1:
        raise InputError(f"{', '.join(chosen)}: give only one of them")
    if model.region_dim and chosen in ([], [WEIGHTS_OPTION]) and not (embeddable and encoder):
        raise InputError(
            f"model {name} also takes an embedding of the region around each tile"
            f"{f' ({encoder})' if encoder else ''}: give --region-embeddings FILE.h5, made at a {SHRINK}th of the"
            " magnification, or --no-region"
        )
