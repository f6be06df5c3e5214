"""A slide or an embedding file as a reference: the embeddings under any place of it."""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache as cache_results
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from largegen.conditioning.area import ImageArea, check_size, most_tissue
from largegen.conditioning.suitable import check_embeddings, own_encoder
from largegen.embeddings.embed import Rectangle, embed_slide, plan_tiles
from largegen.embeddings.file import EmbeddingFile
from largegen.embeddings.grid import EmbeddingGrid
from largegen.embeddings.options import EmbedOptions
from largegen.errors import EmbeddingFileError, InputError, OutputError
from largegen.models.model import Model
from largegen.models.tile_encoder import TileEncoder
from largegen.runtime.distributed import process_group, run_on_main
from largegen.runtime.files import cache_directory
from largegen.slides.slide import Slide
from largegen.slides.tiles import TileGrid, tile_grid

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reference:
    """A grid of tiles that images can be laid over, each tile as large as a model's window."""

    width: int  # px of the whole at the working resolution, with what the grid's whole tiles leave right and below
    height: int
    tissue: np.ndarray  # (rows, cols) bool
    origin_xy: tuple[int, int]  # level-0 top-left corner of the first tile
    tile_level0_px: float  # side of a tile in level-0 px
    grid: Callable[[ImageArea], EmbeddingGrid]  # the embeddings under an image
    anchored: bool = False  # whether the grid is laid for the image's corner, wherever that is

    def area(self, model: Model, size: tuple[int, int] | None, corner: tuple[int, int] | None = None) -> ImageArea:
        """Lay an image over the grid.

        Args:
            model: The model that makes the image.
            size: (width, height) in px, None for the whole.
            corner: The wanted top-left corner (x, y) in level-0 px (the option `region`), moved to the nearest tile's,
                which is said; None: the place with most tissue.

        Returns:
            The image's size and the tiles that it needs.

        Raises:
            InputError: For a size that the grid or the model does not allow, or a corner outside.
        """
        grid_rows, grid_cols = self.tissue.shape
        tile_px = model.tile_px
        largest = self.width // model.factor * model.factor, self.height // model.factor * model.factor
        if size is None:
            if corner is not None:
                raise InputError("`region`: not with `size` full, which is all of the reference")
            return ImageArea(*largest, 0, 0, grid_rows, grid_cols, full=True)
        check_size(size, model)
        width, height = size
        if width > largest[0] or height > largest[1]:
            raise InputError(
                f"`size` {width}x{height}: the reference is too small at this resolution;"
                f" the largest size that fits is {largest[0]}x{largest[1]}"
            )
        rows, cols = min(-(-height // tile_px), grid_rows), min(-(-width // tile_px), grid_cols)
        if corner is None:
            row, col = most_tissue(self.tissue, rows, cols)
        else:
            row, col = self._nearest(corner, size, tile_px)
            rows, cols = min(rows, grid_rows - row), min(cols, grid_cols - col)
        return ImageArea(width, height, row, col, rows, cols, full=False)

    def _nearest(self, corner: tuple[int, int], size: tuple[int, int], tile_px: int) -> tuple[int, int]:
        """Find (row, col) of the tile whose corner is nearest to the wanted one, and from which the image fits."""
        side, start, whole = self.tile_level0_px, self.origin_xy, (self.width, self.height)
        last = [max(0, (most - own) // tile_px) for most, own in zip(whole, size, strict=True)]
        away = [v - first for v, first in zip(corner, start, strict=True)]
        slack = 0.5 if self.anchored else side / 2
        if min(away) < -0.5 or any(v > end * side + slack for v, end in zip(away, last, strict=True)):
            reach = [(most - own) * side / tile_px for most, own in zip(whole, size, strict=True)]
            most_xy = [
                v + int(r + 1e-6) if self.anchored else v + round(end * side)
                for v, r, end in zip(start, reach, last, strict=True)
            ]
            least_xy = (0, 0) if self.anchored else start
            raise InputError(
                f"`region` {corner[0]},{corner[1]}: {size[0]}x{size[1]} px from there leave the reference;"
                f" corners from {least_xy[0]},{least_xy[1]} to {most_xy[0]},{most_xy[1]} fit"
            )
        wanted = [value / side for value in away]
        col, row = (min(round(value), end) for value, end in zip(wanted, last, strict=True))
        x, y = (start + round(n * self.tile_level0_px) for start, n in zip(self.origin_xy, (col, row), strict=True))
        if max(abs(x - corner[0]), abs(y - corner[1])) > 1:
            log.info("`region` %d,%d: the image begins at %d,%d, the nearest tile's corner", *corner, x, y)
        return row, col


def file_reference(model: Model, path: Path) -> Reference:
    """Take an embedding file as a reference.

    Raises:
        EmbeddingFileError: Where it is damaged or does not suit the model.
    """
    file = EmbeddingFile(path)
    check_embeddings(model, file)
    grid = file.grid()
    source = _size_at(file.settings.source_width, file.settings.source_height, grid.downsample)
    whole = (0, 0, source[1] // grid.tile_px, source[0] // grid.tile_px)  # all of the slide
    return grid_reference(grid, source if file.settings.region == whole and not file.settings.grid_xy else None)


def grid_reference(grid: EmbeddingGrid, size: tuple[int, int] | None = None) -> Reference:
    """Take a grid in memory as a reference.

    Args:
        grid: The embeddings.
        size: (width, height) in px of what the grid is of, where that is a little more than its tiles.
    """
    rows, cols = grid.tissue.shape
    width, height = size or (cols * grid.tile_px, rows * grid.tile_px)
    return Reference(
        width=width,
        height=height,
        tissue=grid.tissue,
        origin_xy=grid.origin_xy,
        tile_level0_px=grid.tile_px * grid.downsample,
        grid=lambda area: grid.crop(area.row, area.col, area.rows, area.cols),
    )


@dataclass(frozen=True)
class SlideOnDemand:
    """A slide whose tiles are embedded when they are asked for, or found in a cache."""

    slide: Slide
    downsample: float  # level-0 px per px of the image
    options: EmbedOptions  # of the model's tile size
    mag: float | None = None  # the magnification that the user asked for, to be recorded
    cache: Path | None = None  # directory of the embedded rectangles; None: the user's cache folder
    progress: bool = False  # show progress bars

    @cached_property
    def plan(self) -> tuple[TileGrid, np.ndarray]:
        """The tile grid, and (rows, cols) bool: the tiles that hold tissue."""
        return plan_tiles(self.slide, self.downsample, self.options)

    def tiles(self) -> TileGrid:
        """Lay the tile grid over the slide."""
        return tile_grid(self.slide, self.downsample, self.options.tile_px, origin_xy=self.options.grid_xy)

    def embeddings(
        self, model: Model, encoder: Callable[[], TileEncoder], check: Callable[[Model, EmbeddingFile], None]
    ) -> Callable[[Rectangle], EmbeddingGrid]:
        """Make the function that gives the embeddings of a rectangle of tiles.

        Of several processes one embeds for all.

        Args:
            model: Whose conditions they are.
            encoder: Loads the encoder; called once, when it is needed.
            check: Raises where an embedding file does not suit the model.

        Returns:
            A function of a rectangle (row, column, rows, columns) of the slide's tiles.
        """
        loaded = cache_results(encoder)

        def embed(place: Rectangle) -> EmbeddingGrid:
            with ExitStack() as stack:
                file = self._embedded(loaded(), place, stack)
                check(model, file)
                return file.grid()

        return lambda place: run_on_main(process_group(model.device), lambda: embed(place))

    def _embedded(self, encoder: TileEncoder, place: Rectangle, stack: ExitStack) -> EmbeddingFile:
        """Embed a rectangle into the cache, or find it there; where none can be written, for as long as `stack`."""

        def into(folder: Path, overwrite: bool = False) -> EmbeddingFile:
            return EmbeddingFile(
                embed_slide(
                    self.slide,
                    encoder,
                    folder,
                    self.options,
                    downsample=self.downsample,
                    mag=self.mag,
                    region=place,
                    plan=self.plan,
                    overwrite=overwrite,
                    wait=True,
                    progress=self.progress,
                )
            )

        try:
            folder = self.cache or cache_directory()
            try:
                return into(folder)
            except EmbeddingFileError as error:
                log.warning("%s: embedding it anew", error)
                return into(folder, overwrite=True)
        except OutputError as error:
            log.warning("the `cache` cannot be used (%s); these embeddings are not kept", error)
        return into(Path(stack.enter_context(TemporaryDirectory(prefix="largegen-"))))


def slide_reference(model: Model, source: SlideOnDemand, encoder_weights: Path | None = None) -> Reference:
    """Take a slide as a reference; its tiles are embedded with the model's own encoder.

    Args:
        model: The model to condition.
        source: The slide, and how it is embedded.
        encoder_weights: File of the encoder's weights, where no hub has them.
    """
    tiles, tissue = source.plan
    embed = source.embeddings(model, lambda: own_encoder(model, encoder_weights), check_embeddings)
    x, y = tiles.origin_xy
    width, height = _size_at(source.slide.width - x, source.slide.height - y, source.downsample)
    return Reference(
        width=width,
        height=height,
        tissue=tissue,
        origin_xy=tiles.origin_xy,
        tile_level0_px=tiles.stride_level0_px,
        grid=lambda area: embed((area.row, area.col, area.rows, area.cols)),
        anchored=True,
    )


def _size_at(width: int, height: int, downsample: float) -> tuple[int, int]:
    """Return a slide's size in whole px at a resolution; as little short of one as tiles.tile_grid takes for one."""
    return int(width / downsample + 1e-6), int(height / downsample + 1e-6)
