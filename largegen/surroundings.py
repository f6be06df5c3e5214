"""The wider region around each tile, for models that are conditioned on both [L]: at 5x where the tiles are at 20x."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from largegen.distributed import from_main, join
from largegen.embedding_file import EmbeddingFile, EmbeddingGrid
from largegen.embeddings import embed_slide
from largegen.encoders import load_encoder
from largegen.errors import EmbeddingFileError, InputError
from largegen.model import Model
from largegen.reference import Reference, Region
from largegen.runtime import cache_directory
from largegen.slide import Slide
from largegen.tiles import tile_grid

SHRINK = 4  # px of the tiles' resolution per px of the regions' [L]


def with_surroundings(reference: Reference, wider: Callable[[Region], EmbeddingGrid]) -> Reference:
    """A reference whose tiles' embeddings are followed by those of the regions that they lie in.

    wider: gives the regions' embeddings, of at least those that touch a region of the reference.
    """

    def grid(region: Region) -> EmbeddingGrid:
        tiles = reference.grid(region)
        return replace(tiles, features=np.concatenate([tiles.features, features_around(tiles, wider(region))], -1))

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
    file, name, wanted = EmbeddingFile(path), model.info["name"], model.info.get("region_encoder")
    settings = file.settings
    if settings.width != model.region_dim or (wanted and settings.encoder != wanted):
        raise EmbeddingFileError(
            f"{path}: embeddings of width {settings.width}, of {settings.encoder}, but model {name} needs those of"
            f" regions of width {model.region_dim}{f', of {wanted}' if wanted else ''}"
        )
    grid = file.grid()
    return lambda region: grid


def surroundings_of_slide(
    model: Model,
    slide: Slide,
    downsample: float,
    tissue_threshold: float | None = None,
    tissue_filter: bool = True,
    cache: Path | None = None,
    progress: bool = False,
) -> Callable[[Region], EmbeddingGrid]:
    """Regions of a slide, embedded when asked for with the encoder that the model names, or found in `cache`.

    downsample: level-0 px per px of the picture.
    """
    tiles = tile_grid(slide, downsample * SHRINK, model.tile_px)

    def embed(region: Region) -> EmbeddingGrid:
        first = min(region.row // SHRINK, tiles.rows - 1), min(region.col // SHRINK, tiles.cols - 1)
        last = (region.row + region.rows - 1) // SHRINK, (region.col + region.cols - 1) // SHRINK
        count = min(last[0], tiles.rows - 1) - first[0] + 1, min(last[1], tiles.cols - 1) - first[1] + 1
        path = embed_slide(
            slide,
            load_encoder(model.info["region_encoder"], None, model.device),
            cache or cache_directory(),
            downsample=downsample * SHRINK,
            tile_px=model.tile_px,
            tissue_threshold=tissue_threshold,
            tissue_filter=tissue_filter,
            region=(*first, *count),
            progress=progress,
        )
        return EmbeddingFile(path).grid()

    return lambda region: from_main(join(model.device), lambda: embed(region))


def check_region_choice(model: Model, given: bool, none: bool, embeddable: bool) -> None:
    """Raise an InputError where a model's regions are not taken care of, in one way, or there are none to take care of.

    given: by a file; none: they count as zero; embeddable: there is a slide to embed them from.
    """
    if not model.region_dim:
        if given or none:
            raise InputError(f"--region-embeddings, --no-region: model {model.info['name']} takes none of regions")
        return
    if given and none:
        raise InputError("--region-embeddings, --no-region: give only one of them")
    encoder = model.info.get("region_encoder")
    if not (given or none or (embeddable and encoder)):
        raise InputError(
            f"model {model.info['name']} also takes an embedding of the region around each tile"
            f"{f' ({encoder})' if encoder else ''}: give --region-embeddings FILE.h5, made at a {SHRINK}th of the"
            " magnification, or --no-region"
        )
