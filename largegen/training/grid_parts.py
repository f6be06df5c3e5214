"""Embedding files as grids of tiles that lie side by side, whatever their overlap, and the pixels under them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from largegen.embeddings.annotations import read_annotations
from largegen.embeddings.file import EmbeddingFile
from largegen.embeddings.source import find_slide
from largegen.errors import EmbeddingFileError, InputError
from largegen.models.grid_prior import NO_LABEL
from largegen.training.grids import TrainingGrid
from largegen.training.regions import cells_per_tile

SAME_SCALE = 1.2  # times the size of a pixel from which on grids are of another scale


@dataclass(frozen=True)
class GridPart:
    """Every n-th tile of a file, from one of its first n x n on: tiles that overlap are n to a tile."""

    file: EmbeddingFile
    step: int  # n
    row: int  # of the first tile
    col: int
    slides: Path | None  # directory of the slides, if they are no longer where they were

    def xy(self, row: int, col: int) -> tuple[int, int]:
        """Return the level-0 top-left corner of a tile of the part."""
        s = self.file.settings
        return s.xy(s.region[0] + self.row + self.step * row, s.region[1] + self.col + self.step * col)

    def grid(self, scale: int, label: int) -> TrainingGrid:
        """Read the embeddings."""
        grid = self.file.grid()
        where = slice(self.row, None, self.step), slice(self.col, None, self.step)
        name = self.file.settings.source_name
        return TrainingGrid(name, grid.features[where], grid.tissue[where], scale, label, tile=self._tile_reader())

    def _tile_reader(self) -> Callable[[int, int], np.ndarray] | None:
        """Return what reads the pixels of a tile; None where the slide is not at hand."""
        slide = cache(lambda: find_slide(self.file, self.slides))
        try:
            find_slide(self.file, self.slides).close()
        except InputError:
            return None
        s = self.file.settings
        return lambda row, col: slide().read(*self.xy(row, col), s.tile_px, s.tile_px, s.downsample)


def grid_parts(files: Sequence[EmbeddingFile], slides: Path | None) -> list[GridPart]:
    """Divide files into parts whose tiles lie side by side.

    Raises:
        InputError: For tiles that overlap by no whole part of a tile.
    """
    steps = [(file, cells_per_tile(file, 1)) for file in files]
    return [
        GridPart(file, step, row, col, slides)
        for file, step in steps
        for row in range(min(step, file.settings.region[2]))
        for col in range(min(step, file.settings.region[3]))
    ]


def texts_of(path: Path, column: str, parts: Sequence[GridPart]) -> list[list[str]]:
    """Read what a CSV says of the file of each part: see annotations.py, which says what is raised."""
    files = list(dict.fromkeys(part.file for part in parts))
    found = dict(zip(files, read_annotations(path, column, files), strict=True))
    return [found[part.file] for part in parts]


def labels_of(path: Path | None, parts: Sequence[GridPart]) -> tuple[list[str], list[int]]:
    """Read the labels: all of them, sorted, and the number of each part's.

    Raises:
        InputError: For a file that has two, and as `read_annotations`.
    """
    if path is None:
        return [], [NO_LABEL] * len(parts)
    found = [set(texts) for texts in texts_of(path, "label", parts)]
    for part, texts in zip(parts, found, strict=True):
        if len(texts) > 1:
            raise InputError(f"{path}: {part.file.path.name} has the labels {', '.join(sorted(texts))}")
    names = sorted(set().union(*found))
    return names, [names.index(min(texts)) if texts else NO_LABEL for texts in found]


def scales_of(parts: Sequence[GridPart]) -> tuple[list[float], list[int]]:
    """Find the sizes of a pixel that parts are of, the finest first, and the number of each part's.

    Raises:
        EmbeddingFileError: Where only some of the files say.
    """
    sizes = [part.file.settings.working_mpp or part.file.settings.working_gsd for part in parts]
    known = sorted(size for size in sizes if size)
    if not known:
        return [], [0] * len(parts)
    for part, size in zip(parts, sizes, strict=True):
        if not size:
            raise EmbeddingFileError(f"{part.file.path}: its resolution is not known, but that of other files is")
    scales = known[:1]
    for size in known:
        if size > SAME_SCALE * scales[-1]:
            scales.append(size)
    return scales, [int(np.abs(np.log(np.array(scales) / size)).argmin()) for size in sizes]
