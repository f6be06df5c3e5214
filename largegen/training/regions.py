"""Regions of a slide at several levels: 2^k x 2^k tiles of the base grid, seen as one image of a tile's size [Z].

Level k shows 2^k tile sides at a 2^k-th of the base resolution: for a base of 20x, level 1 is 10x, level 2 is 5x, ...
A region's condition is the grid of the base embeddings under it; tiles without tissue, or off the slide, count with the
embedding of a tile of the background colour.
"""

from dataclasses import dataclass

import numpy as np

from largegen.embeddings.file import EmbeddingFile
from largegen.errors import InputError
from largegen.slides.slide import Slide
from largegen.slides.tissue import REGION_TILES, box_sums
from largegen.training.held_out import HeldOut

STARTS_PER_SIDE = 8  # regions of one level start an eighth of their side apart, or a tile's stride if that is more


@dataclass(frozen=True)
class TrainingRegions:
    """The regions of one embedding file at one level."""

    file: EmbeddingFile
    level: int
    cells: np.ndarray  # (N, 2) int64: row and column of each first tile in the file's grid; may lie off it

    @property
    def side(self) -> int:
        """Tiles along a region's side."""
        return 2**self.level

    @property
    def downsample(self) -> float:
        """Level-0 px per pixel of a region's image."""
        return self.file.settings.downsample * self.side

    def xy(self, n: int) -> tuple[int, int]:
        """Return the top-left corner of region `n` in level-0 px; may lie outside the slide."""
        settings = self.file.settings
        return settings.xy(*(self.cells[n] + settings.region[:2]))

    def image(self, n: int, slide: Slide) -> np.ndarray:
        """Read region `n` as (tile_px, tile_px, 3) uint8, from the nearest larger pyramid level."""
        tile_px = self.file.settings.tile_px
        return slide.read(*self.xy(n), tile_px, tile_px, self.downsample)

    def tiles(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return rows (2^k,) and columns (2^k,) of region `n`'s tiles in the file's grid; may lie off it."""
        steps = np.arange(self.side) * cells_per_tile(self.file, self.level)
        return self.cells[n, 0] + steps, self.cells[n, 1] + steps


def find_regions(file: EmbeddingFile, level: int, min_tissue: float = REGION_TILES) -> TrainingRegions:
    """Find all regions of a level, an eighth of their side apart; at level 0 the file's tiles.

    Args:
        file: Embeddings of a slide.
        level: Regions are 2^level tiles along a side.
        min_tissue: Part of a region's tiles that must hold tissue, 0 to 1; it also limits how far regions stick out of
            the slide.

    Raises:
        InputError: The overlap of the file's tiles does not divide a tile, so that they cannot be laid side by side.
    """
    if level == 0:
        return TrainingRegions(file, 0, file.cells)
    apart, side = cells_per_tile(file, level), 2**level
    step = max(1, side * apart // STARTS_PER_SIDE)
    tissue = np.zeros(file.settings.region[2:], bool)
    tissue[tuple(file.cells.T)] = True
    reach = (side - 1) * apart
    padded = np.pad(tissue, reach)
    # At multiples of the step, so that some regions are whole blocks of `split`.
    rows, cols = (np.arange(-(reach // step) * step, size, step) for size in tissue.shape)
    top, left = rows[:, None] + reach, cols + reach
    count = box_sums(padded, top, top + side * apart, left, left + side * apart, step=apart)
    kept = np.argwhere(count >= max(1, min_tissue * side**2))
    return TrainingRegions(file, level, np.stack([rows[kept[:, 0]], cols[kept[:, 1]]], 1))


class EmbeddingGrids:
    """The grids of embeddings under regions, (2^k, 2^k, D) float32, from one file's features read once."""

    def __init__(self, file: EmbeddingFile):
        rows, cols = file.settings.region[2:]
        self.features = np.concatenate([file.features(), file.background[None]])
        self.index = np.full((rows + 1, cols + 1), len(self.features) - 1)  # the last row and column: off the grid
        self.index[tuple(file.cells.T)] = np.arange(file.count)

    def under(self, regions: TrainingRegions, n: int) -> np.ndarray:
        """Return the grid under region `n`."""
        rows, cols = (
            np.where((tiles >= 0) & (tiles < size - 1), tiles, size - 1)
            for tiles, size in zip(regions.tiles(n), self.index.shape, strict=True)
        )
        return self.features[self.index[np.ix_(rows, cols)]]


def split(regions: TrainingRegions, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split regions into those to train on and those to validate on; what lies in both is left out.

    The slide is cut into blocks of a region's side (256 px of its image at least), and a fraction `held_out` of them is
    kept for validation: at every level by itself, for at low magnification nearly every region shows a piece of a block
    that is kept at a high one. What is held out at one level may be seen at another.

    Returns:
        Numbers of the regions to train on, and of those to validate on.
    """
    s = regions.file.settings
    name = s.source_name if regions.level == 0 else f"{s.source_name} level {regions.level}"
    blocks = HeldOut.for_tiles(s.tile_px, held_out, seed)
    training, validation = [], []
    for n in range(len(regions.cells)):
        x, y = (round(value / regions.downsample) for value in regions.xy(n))
        if not blocks.touches(name, x, y, s.tile_px):
            training.append(n)
        elif blocks.covers(name, x, y, s.tile_px):
            validation.append(n)
    return np.array(training, int), np.array(validation, int)


def cells_per_tile(file: EmbeddingFile, level: int) -> int:
    """Count from a tile to the one beside it, in cells of the file's grid."""
    s = file.settings
    stride = s.tile_px - s.overlap_px
    if level and s.tile_px % stride:
        raise InputError(
            f"{file.path}: its tiles of {s.tile_px} px overlap by {s.overlap_px} px and cannot be laid side by side;"
            f" for several levels embed with an overlap of 0, {s.tile_px // 2} or {3 * s.tile_px // 4} px"
        )
    return s.tile_px // stride if level else 1
