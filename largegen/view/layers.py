"""Which overlays a scene has, and how each is computed: by the code that measures and embeds, never anew."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from largegen.errors import InputError
from largegen.images.provenance import Provenance
from largegen.metrics.per_image.seams import borders_of
from largegen.metrics.request import STARTER
from largegen.metrics.sets.pairs import Pair
from largegen.slides.by_products import made_path
from largegen.slides.resolution import mpp_of
from largegen.slides.slide import Slide
from largegen.slides.tiles import tile_grid
from largegen.slides.tissue import tissue_mask
from largegen.view.edited import edited_data
from largegen.view.overlays import (
    Box,
    Overlay,
    colours_data,
    grid_data,
    heat_data,
    kept_data,
    lines_data,
    mask_data,
)
from largegen.view.sources import Opened, embedding_colours

TILE_PX = 256
BATCH_TILES = 16
MAX_WINDOWS = 10**6  # of a canvas: no image that this tool makes has so many, but a hostile header may say so
WRONG = (
    LookupError,
    TypeError,
    ValueError,
    ArithmeticError,
    AttributeError,
)  # of a provenance that this tool did not write


@dataclass(frozen=True)
class Placed:
    """A slide, and where its level-0 pixels lie in the plane of a scene."""

    slide: Slide
    xy: tuple[float, float] = (0.0, 0.0)  # of its corner, plane px
    scale: float = 1.0  # level-0 px per plane px

    @property
    def box(self) -> Box:
        """The whole slide in the plane."""
        return (*self.xy, self.slide.width / self.scale, self.slide.height / self.scale)

    def part(self, x: float, y: float, width: float, height: float) -> Box:
        """Return a rectangle of level-0 px in the plane."""
        return self.xy[0] + x / self.scale, self.xy[1] + y / self.scale, width / self.scale, height / self.scale


@dataclass(frozen=True)
class EncoderChoice:
    """The encoder in whose space tiles are compared; not the one that a file names, as that may lie anywhere."""

    name: str = STARTER
    weights: Path | None = None  # file, where no hub has them


def result_layers(opened: Opened, pair: Pair | None, encoder: EncoderChoice) -> list[Overlay]:
    """List the overlays of a generated image.

    Args:
        opened: it.
        pair: where it lies on its reference, if that is shown.
        encoder: to compare the two.
    """
    found = []
    if (made := made_path(opened.path)).is_file():
        about = "Which part was made anew, and where old and new were blended"
        found.append(Overlay("edited", "Edited part", about, partial(edited_data, made)))
    if (tile := tile_of(opened)) is not None:
        cols, rows = opened.width // tile, opened.height // tile
        data = partial(grid_data, (0, 0), tile, tile, cols, rows)
        found.append(Overlay("grid", "Tile grid", f"Tiles of {tile} px, one embedding each", data))
        seams = Overlay("seams", "Seams", "Where windows of the last step met", partial(_seams, opened))
        found.append(seams)
        if pair is not None:
            about = "Cosine of each tile's embedding with that of the reference in its place, as largegen eval has it"
            compute = partial(_similarity, pair, tile, encoder)
            found.append(Overlay("similarity", "Embedding similarity", about, compute, slow=True))
    return found


def tile_of(opened: Opened) -> int | None:
    """Return the side of the tiles of a generated image, px; None where it does not say, or it makes no sense."""
    record = opened.provenance
    tile = record.get("tile_px") if record.get("level") is None else None
    return tile if isinstance(tile, int) and 16 <= tile <= max(opened.width, opened.height) else None


def slide_layers(placed: Placed, prefix: str, tile_px: int = TILE_PX, downsample: float | None = None) -> list[Overlay]:
    """List the overlays of a slide or scene.

    Args:
        placed: it.
        prefix: of keys and names, where a scene has another picture's overlays too: "reference".
        tile_px: side of a tile.
        downsample: level-0 px per px of a tile; None: as `largegen embed` would choose.
    """
    slide = placed.slide
    what = "data" if slide.kind == "scene" else "tissue"
    key, name = (f"{prefix}-", f"{prefix.capitalize()}: {{}}".format) if prefix else ("", str.capitalize)
    grid = partial(_embed_grid, placed, tile_px, downsample)
    found = [
        Overlay(f"{key}mask", name(what), f"Where {what} is found by default", partial(_mask, placed)),
        Overlay(
            f"{key}kept",
            name("tiles kept and skipped"),
            f"A tile is embedded if it holds enough {what}, by the default rule; skipped ones are veiled",
            partial(_kept, placed, tile_px, downsample),
        ),
    ]
    if not prefix:
        found.insert(0, Overlay("grid", "Tile grid", f"Tiles of {tile_px} px, as they would be embedded", grid))
    return found


def embedding_layers(opened: Opened) -> list[Overlay]:
    """List the overlays of an embedding file over its slide."""
    grid = opened.grid
    if grid is None:
        return []
    rows, cols = grid.tissue.shape
    side, step = grid.tile_px * grid.downsample, (grid.tile_px - grid.overlap_px) * grid.downsample
    box = (*grid.origin_xy, cols * step, rows * step)
    return [
        Overlay(
            "grid",
            "Tile grid",
            f"Tiles of {grid.tile_px} px, as they were embedded",
            partial(grid_data, grid.origin_xy, side, step, cols, rows),
        ),
        Overlay(
            "kept",
            "Tiles kept and skipped",
            "Tiles that the file holds; others are veiled",
            lambda: kept_data(grid.tissue, box),
        ),
        Overlay(
            "colours",
            "Embeddings",
            "Their first three principal components as colours: alike to the encoder, alike in colour",
            lambda: colours_data(embedding_colours(grid), box, "alike to the encoder, alike in colour"),
        ),
    ]


def _seams(opened: Opened) -> dict[str, Any]:
    def borders() -> dict[str, Any]:
        record = opened.provenance
        check_sane(record)
        found = borders_of(record)
        return lines_data(list(found.rows), list(found.cols), (0, 0, opened.width, opened.height))

    return trusted(borders)


def check_sane(record: dict[str, Any]) -> None:
    """Raise InputError for a provenance whose windows nobody could lay out."""
    tile, latent = record["tile_px"], record["latent_px"]
    if not 0 < latent <= tile or record["width"] * record["height"] / tile**2 > MAX_WINDOWS:
        raise InputError(f"tiles of {tile} px and latents of {latent} px are none of an image of this size")
    Provenance.read(record).settings().check(tile // latent)


def trusted(compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Compute what depends on a provenance. Raises InputError where that makes no sense."""
    try:
        return compute()
    except InputError:
        raise
    except WRONG as error:
        raise InputError(f"its provenance makes no sense: {type(error).__name__}: {error}") from error


def _similarity(pair: Pair, tile_px: int, choice: EncoderChoice) -> dict[str, Any]:
    from largegen.metrics.per_image.similarity import embed_pairs, similarity
    from largegen.metrics.sets.pair_tiles import PairTiles
    from largegen.models.encoder import load_encoder

    encoder = load_encoder(choice.name, choice.weights, device="cpu")
    tiles = PairTiles([pair], tile_px)
    found = similarity(*embed_pairs(tiles.batches(BATCH_TILES), encoder), tiles.places[:, 0])
    values = np.full((pair.height // tile_px, pair.width // tile_px), np.nan)
    values[tiles.places[:, 2] // tile_px, tiles.places[:, 1] // tile_px] = found.values
    unrelated = "" if found.baseline is None else f"; unrelated real tiles {found.baseline:.3f}"
    rows, cols = values.shape
    legend = f"mean {found.mean:.3f}{unrelated}; by {choice.name}"
    return heat_data(values, (0, 0, cols * tile_px, rows * tile_px), "cosine", legend, found.mean)


def _working_downsample(slide: Slide) -> float:
    """Return the level-0 px per px at which slides are embedded: 20x, or a scene's or unknown slide's own."""
    return max(1.0, slide.downsample_for(mpp=mpp_of(20.0))) if slide.kind != "scene" and slide.mpp else 1.0


def _embed_grid(placed: Placed, tile_px: int, downsample: float | None) -> dict[str, Any]:
    grid = tile_grid(placed.slide, downsample or _working_downsample(placed.slide), tile_px)
    x, y, side, _ = placed.part(*grid.origin_xy, grid.tile_px * grid.downsample, 0)
    return grid_data((x, y), side, grid.stride_level0_px / placed.scale, grid.cols, grid.rows)


def _mask(placed: Placed) -> dict[str, Any]:
    mask = tissue_mask(placed.slide)
    return mask_data(mask, placed.box, f"{mask.mean():.0%} of it")


def _kept(placed: Placed, tile_px: int, downsample: float | None) -> dict[str, Any]:
    from largegen.embeddings.embed import plan_tiles
    from largegen.embeddings.options import EmbedOptions

    options = EmbedOptions(tile_px=tile_px)
    grid, kept = plan_tiles(placed.slide, downsample or _working_downsample(placed.slide), options)
    size = (count * grid.stride_level0_px for count in (grid.cols, grid.rows))
    return kept_data(kept, placed.part(*grid.origin_xy, *size))
