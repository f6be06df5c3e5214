"""The grid of tiles over a slide, and how much tissue each holds."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from largegen.errors import InputError
from largegen.runtime.lock import lock
from largegen.slides.tissue import box_fractions, nearest_cells

if TYPE_CHECKING:
    from largegen.slides.slide import Slide


@dataclass(frozen=True)
class TileGrid:
    """Whole tiles only, row by row from the slide's top-left corner, or another place near it."""

    downsample: float  # level-0 px per tile px
    rows: int
    cols: int
    tile_px: int = 256  # side of a tile, in pixels at the grid's resolution
    overlap_px: int = 0  # shared by neighbouring tiles, in the same pixels
    origin_xy: tuple[int, int] = (0, 0)  # level-0 corner of the first tile

    @property
    def tile_level0_px(self) -> int:
        """The side of a tile in level-0 pixels, rounded."""
        return round(self.tile_px * self.downsample)

    @property
    def stride_level0_px(self) -> float:
        """From one tile to the next in level-0 pixels; not rounded, so that the grid does not drift."""
        return (self.tile_px - self.overlap_px) * self.downsample

    def xy(self, row: int, col: int) -> tuple[int, int]:
        """Return the top-left corner of a tile in level-0 pixels, rounded."""
        x, y = self.origin_xy
        return x + round(col * self.stride_level0_px), y + round(row * self.stride_level0_px)

    @property
    def coords(self) -> np.ndarray:
        """The top-left corners (x, y) in level-0 pixels, row by row: (rows * cols, 2) int64."""
        corners = [self.xy(row, col) for row in range(self.rows) for col in range(self.cols)]
        return np.array(corners, np.int64).reshape(-1, 2)


def grid_through(corner_xy: tuple[int, int], stride: float) -> tuple[int, int]:
    """Find the corner nearest to the slide's of a grid that has a tile beginning at `corner_xy`, in level-0 pixels.

    Args:
        corner_xy: a tile's corner.
        stride: from one tile to the next.
    """
    x, y = (int(v) - round(int(v / stride) * stride) for v in corner_xy)
    return x, y


def tile_grid(
    slide: "Slide",
    downsample: float,
    tile_px: int = 256,
    overlap_px: int = 0,
    origin_xy: tuple[int, int] | None = None,
) -> TileGrid:
    """Lay the grid of whole tiles.

    Args:
        slide: open slide.
        downsample: level-0 pixels per pixel of a tile.
        tile_px: side of a tile, in pixels at that resolution.
        overlap_px: shared by neighbouring tiles, in the same pixels.
        origin_xy: level-0 corner of the first tile; by default the slide's.

    Raises:
        InputError: the overlap is not smaller than a tile, or the slide is smaller than one tile.
    """
    if tile_px < 1 or not 0 <= overlap_px < tile_px:
        raise InputError(f"tiles of {tile_px} px with an overlap of {overlap_px} px: must be 0 <= overlap < tile")
    stride = tile_px - overlap_px
    left, top = origin_xy or (0, 0)
    sizes = (slide.height - top) / downsample, (slide.width - left) / downsample
    rows, cols = (math.floor((size - tile_px) / stride + 1e-6) + 1 for size in sizes)
    if rows < 1 or cols < 1:
        height, width = map(int, sizes)
        raise InputError(f"{slide.path}: {width}x{height} px at this resolution, smaller than one tile of {tile_px} px")
    return TileGrid(downsample, rows, cols, tile_px, overlap_px, (left, top))


def tissue_fraction(grid: TileGrid, slide: "Slide", mask: np.ndarray) -> np.ndarray:
    """Measure the tissue of each tile.

    Args:
        grid: the tiles.
        slide: open slide.
        mask: (h, w) bool over the whole slide, see tissue.tissue_mask.

    Returns:
        (rows, cols) float in 0..1: the part of each tile that the mask covers.
    """
    tile = grid.tile_px * grid.downsample

    def cells(origin: int, count: int, size: int, along: int) -> tuple[np.ndarray, np.ndarray]:
        start = (origin + np.arange(count) * grid.stride_level0_px) * along / size
        return nearest_cells(start, start + tile * along / size, along)

    top, bottom = cells(grid.origin_xy[1], grid.rows, slide.height, mask.shape[0])
    left, right = cells(grid.origin_xy[0], grid.cols, slide.width, mask.shape[1])
    return box_fractions(mask, top[:, None], bottom[:, None], left, right)


def draw_preview(slide: "Slide", grid: TileGrid, keep: np.ndarray, path: Path, max_px: int = 1536) -> None:
    """Write a thumbnail as PNG, the kept tiles outlined, the others faded.

    Args:
        slide: open slide.
        grid: its tiles.
        keep: (rows, cols) bool: the tiles that are kept.
        path: the PNG file.
        max_px: longer side at most.
    """
    from PIL import Image, ImageDraw
    from PIL.PngImagePlugin import PngInfo

    from largegen.runtime.files import atomic
    from largegen.slides.by_products import PREVIEW_KEY, PREVIEW_TEXT

    image = Image.fromarray(slide.thumbnail(max_px))
    draw = ImageDraw.Draw(image, "RGBA")
    scale = image.width / slide.width
    side = grid.tile_px * grid.downsample * scale
    # Kept tiles last, so that their outline is whole.
    for row, col in sorted(np.ndindex(keep.shape), key=lambda place: bool(keep[place])):
        left, top = (value * scale for value in grid.xy(row, col))
        box = (left, top, left + side - 1, top + side - 1)
        if keep[row, col]:
            draw.rectangle(box, outline=(0, 110, 60, 255))
        else:
            draw.rectangle(box, fill=(128, 128, 128, 110), outline=(128, 128, 128, 255))
    mark = PngInfo()
    mark.add_text(PREVIEW_KEY, PREVIEW_TEXT)
    with lock(Path(path)), atomic(Path(path)) as temporary:
        image.save(temporary, "PNG", pnginfo=mark)
