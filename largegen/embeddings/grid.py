"""A grid of embeddings in memory, and what is known of the slide under it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from largegen.errors import InputError

if TYPE_CHECKING:
    from largegen.slides.slide import Slide


@dataclass(frozen=True)
class SourceInfo:
    """The slide or scene that embeddings were made from."""

    name: str
    path: str  # where it was
    kind: str  # slide, scene or image
    width: int  # level-0 px
    height: int
    background: tuple[int, int, int]  # RGB of empty glass or of no data
    mpp: float | None = None  # um per level-0 px
    gsd_m: float | None = None  # metres per level-0 px
    crs: str | None = None  # of a scene, with `transform`: rasterio's a, b, c, d, e, f
    transform: tuple[float, ...] | None = None
    imagined: str | None = None  # JSON: what a grid that is of no slide was sampled from, see sampling/imagine.py
    mpp_from: str | None = None  # "objective" where nothing but the objective tells `mpp`

    @classmethod
    def of(cls, slide: "Slide") -> "SourceInfo":
        """Say what an open slide says of itself."""
        place = slide.georeference
        return cls(
            name=slide.name,
            path=str(Path(slide.path).absolute()),
            kind=slide.kind,
            width=slide.width,
            height=slide.height,
            background=slide.background,
            mpp=slide.mpp,
            gsd_m=slide.gsd_m,
            crs=place.crs if place else None,
            transform=tuple(place.transform) if place else None,
            mpp_from=slide.mpp_from,
        )


@dataclass
class EmbeddingGrid:
    """Embeddings laid out as they lie on the slide."""

    features: np.ndarray  # (rows, cols, D) float32; where `tissue` is False, the background embedding
    tissue: np.ndarray  # (rows, cols) bool; False where the tissue filter left the tile out
    background: np.ndarray  # (D,) float32: embedding of a tile of the background colour
    tile_px: int  # side of a tile, in pixels at the grid's resolution
    overlap_px: int  # shared by neighbouring tiles, in the same pixels
    downsample: float  # level-0 px per tile px
    origin_xy: tuple[int, int]  # level-0 top-left corner of features[0, 0]
    encoder: str  # name of the encoder
    licence: str  # of the encoder; it reaches whatever is made from the embeddings
    source: SourceInfo

    def crop(self, row: int, col: int, rows: int, cols: int) -> "EmbeddingGrid":
        """Cut out rows x cols tiles, the first at (row, col).

        Raises:
            InputError: Where they do not all lie in this grid.
        """
        height, width = self.tissue.shape
        if row < 0 or col < 0 or rows < 1 or cols < 1 or row + rows > height or col + cols > width:
            raise InputError(f"{rows}x{cols} tiles from ({row}, {col}) do not lie in a grid of {height}x{width}")
        stride = (self.tile_px - self.overlap_px) * self.downsample
        place = (slice(row, row + rows), slice(col, col + cols))
        return replace(
            self,
            features=self.features[place],
            tissue=self.tissue[place],
            origin_xy=(self.origin_xy[0] + round(col * stride), self.origin_xy[1] + round(row * stride)),
        )
