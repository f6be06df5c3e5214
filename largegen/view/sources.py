"""What is looked at, by its file: slides, scenes, images and embedding files, read as tiles need it."""

import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from largegen.errors import InputError
from largegen.slides.resolution import PIXELS, UNKNOWN, Resolution, Scale
from largegen.slides.slide import Slide, open_slide
from largegen.view.tiles import Source

if TYPE_CHECKING:
    from largegen.embeddings.grid import EmbeddingGrid

log = logging.getLogger(__name__)

OVERVIEW_PX = 4096  # longer side of the copy from which coarse tiles are cut where a file has no level for them
COARSER = 4  # times as coarse as a file's last level: from there on the copy is worth its making


@dataclass(frozen=True)
class Opened:
    """A file to look at."""

    path: Path
    source: Source
    width: int  # level-0 px
    height: int
    scale: Scale  # of a level-0 px
    slide: Slide | None = None  # None for embeddings whose slide is not there
    grid: "EmbeddingGrid | None" = None  # of an embedding file

    @property
    def provenance(self) -> dict[str, Any]:
        """What an image of ours says of its making, else empty."""
        return self.slide.provenance if self.slide else {}


class SlideSource:
    """A slide of which coarse tiles are cut from a copy in memory, where the file has no level that is nearly so."""

    def __init__(self, slide: Slide) -> None:
        self._slide = slide
        self._shrink = max(1.0, max(slide.width, slide.height) / OVERVIEW_PX)
        self._least = max(self._shrink, COARSER * slide.width / slide.levels[-1][0])
        self._overview: np.ndarray | None = None
        self._lock = threading.Lock()

    def read(self, x: float, y: float, width: int, height: int, downsample: float = 1.0) -> np.ndarray:
        """Read as `Slide.read` does a rectangle inside the slide, but for a fraction of a pixel."""
        if downsample < self._least:
            return self._slide.read(x, y, width, height, downsample)
        from PIL import Image

        with self._lock:
            if self._overview is None:
                across, down = (max(1, round(side / self._shrink)) for side in (self._slide.width, self._slide.height))
                self._overview = self._slide.read(0, 0, across, down, self._shrink)
        right, bottom = (start + count * downsample for start, count in ((x, width), (y, height)))
        rows, cols = self._overview.shape[:2]
        box = (x / self._shrink, y / self._shrink, min(cols, right / self._shrink), min(rows, bottom / self._shrink))
        return np.asarray(Image.fromarray(self._overview).resize((width, height), Image.Resampling.LANCZOS, box))


class CellSource:
    """A grid of colours as a picture: each cell a rectangle of level-0 pixels."""

    def __init__(self, colours: np.ndarray, cell: float, xy: tuple[float, float] = (0, 0)) -> None:
        """Take the cells.

        Args:
            colours: (rows, cols, 3) uint8; what lies past them has the colour of the nearest.
            cell: side of one, level-0 px.
            xy: corner of the first, level-0 px.
        """
        self._colours, self._cell, self._xy = colours, cell, xy

    def read(self, x: float, y: float, width: int, height: int, downsample: float = 1.0) -> np.ndarray:
        """Read as `Slide.read` does, each pixel that of the cell under its centre."""
        col, row = (
            np.clip(((start + (np.arange(count) + 0.5) * downsample - corner) // self._cell).astype(int), 0, cells - 1)
            for start, count, corner, cells in zip(
                (x, y), (width, height), self._xy, self._colours.shape[1::-1], strict=True
            )
        )
        found: np.ndarray = self._colours[row[:, None], col]
        return found


def open_to_look(path: Path, source: Resolution = UNKNOWN) -> Opened:
    """Open a file to look at.

    Args:
        path: a slide, scene, image, result or embedding file.
        source: its resolution, where its metadata lack it.

    Raises:
        InputError: it is none of them, or damaged.
    """
    if is_embedding_file(path):
        return _open_embeddings(path)
    slide = open_slide(path, *source, check=False)
    return Opened(path, SlideSource(slide), slide.width, slide.height, slide.scale, slide)


def is_embedding_file(path: Path) -> bool:
    """Tell whether a file is meant to be one of embeddings."""
    return path.suffix.lower() in (".h5", ".hdf5")


def _open_embeddings(path: Path) -> Opened:
    """Open the slide under an embedding file; where it is not there, the embeddings are a picture of their own."""
    from largegen.embeddings.file import EmbeddingFile
    from largegen.embeddings.source import slide_path_of

    file = EmbeddingFile(path)
    grid = file.grid()
    try:
        slide = open_slide(slide_path_of(path), check=False)
        return Opened(path, SlideSource(slide), slide.width, slide.height, slide.scale, slide, grid)
    except InputError as error:
        if not grid.source.imagined:
            log.info("%s; its embeddings are shown alone", error)
    info, stride = grid.source, (grid.tile_px - grid.overlap_px) * grid.downsample
    scale = Scale("um", info.mpp) if info.mpp else Scale("m", info.gsd_m) if info.gsd_m else PIXELS
    source = CellSource(embedding_colours(grid), stride, grid.origin_xy)
    return Opened(path, source, info.width, info.height, scale, grid=grid)


def embedding_colours(grid: "EmbeddingGrid") -> np.ndarray:
    """Show embeddings as colours: their first three principal components as red, green and blue.

    Tiles that look alike to the encoder have like colours; what the colours are means nothing.

    Returns:
        (rows, cols, 3) uint8; the slide's background where no tile was embedded.
    """
    out = np.empty((*grid.tissue.shape, 3), np.uint8)
    out[:] = grid.source.background
    found = grid.features[grid.tissue].astype(np.float64)
    if len(found) > 1:
        centred = found - found.mean(0)
        axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :3]
        axes = axes * np.sign(axes.sum(0))  # an axis has two directions: always the same one
        low, high = np.percentile(values := centred @ axes, (2, 98), axis=0)
        shown = np.full((len(found), 3), 0.5)
        shown[:, : axes.shape[1]] = (values - low) / np.maximum(high - low, 1e-9)
        out[grid.tissue] = (40 + 200 * shown.clip(0, 1)).round()
    return out
