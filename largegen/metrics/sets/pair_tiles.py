"""The tiles of generated images and the real ones in their places, read ahead."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from largegen.metrics.sets.pairs import Pair
from largegen.runtime.read_ahead import read_ahead
from largegen.slides.slide import open_slide
from largegen.slides.tissue import EMBEDDED_TILE, box_fractions, nearest_cells, tissue_mask

MAX_KEPT_MASKS = 16  # of real images, that are kept for further pairs

Batch = tuple[np.ndarray, np.ndarray, np.ndarray]  # indices (B,), real tiles and fake ones (B, size, size, 3) uint8


class PairTiles:
    """The tiles of generated images, side by side from the top-left corner, and the real ones in their places."""

    def __init__(self, pairs: Sequence[Pair], size_px: int = 256, tissue: bool = True):
        """tissue: only tiles whose real one holds tissue (in a scene, data), by the rule for tiles to be embedded."""
        self.pairs, self.size_px = tuple(pairs), size_px
        found, masked = [np.empty((0, 3), np.int64)], lru_cache(MAX_KEPT_MASKS)(_tissue_of)
        for number, pair in enumerate(self.pairs):
            xy = np.indices((pair.width // size_px, pair.height // size_px)).T.reshape(-1, 2) * size_px
            if tissue and len(xy):
                xy = xy[_on_tissue(masked(pair.real), pair, xy, size_px)]
            found.append(np.insert(xy, 0, number, axis=1))
        self.places = np.concatenate(found)  # (N, 3) int64: pair, x, y in px of the generated image, row by row

    def __len__(self) -> int:
        return len(self.places)

    def batches(self, batch_size: int, workers: int = 2, share: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        """Yield the tiles in order, those of a batch all of one pair, so that two files are open at a time.

        workers: threads that read one batch ahead. share: (index, of): only that one of so many parts.
        """
        index, parts = share
        mine = np.array_split(np.arange(len(self)), parts)[index]
        for tiles in np.split(mine, np.flatnonzero(np.diff(self.places[mine, 0])) + 1):
            if len(tiles):
                yield from self._of_a_pair(np.split(tiles, range(batch_size, len(tiles), batch_size)), workers)

    def _of_a_pair(self, batches: Sequence[np.ndarray], workers: int) -> Iterator[Batch]:
        pair, side = self.pairs[self.places[batches[0][0], 0]], self.size_px
        (left, top), scale = pair.real_xy, pair.scale
        with open_slide(pair.real) as real, open_slide(pair.fake) as fake:

            def read(tile: int) -> tuple[np.ndarray, np.ndarray]:
                _, x, y = self.places[tile].tolist()
                return real.read(left + x * scale, top + y * scale, side, side, scale), fake.read(x, y, side, side)

            with closing(read_ahead(read, chain(*batches), max(1, workers), 2 * len(batches[0]))) as tiles:
                for batch in batches:
                    reals, fakes = zip(*islice(tiles, len(batch)), strict=True)
                    yield batch, np.stack(reals), np.stack(fakes)


class _Tissue(NamedTuple):
    mask: np.ndarray  # (h, w) bool over the whole slide
    cells: np.ndarray  # (2,), per level-0 px: x, y
    least: float  # part of a tile to be embedded


def _tissue_of(path: Path) -> _Tissue:
    with open_slide(path) as slide:
        mask = tissue_mask(slide)
        cells = np.array(mask.shape[::-1]) / (slide.width, slide.height)
        return _Tissue(mask, cells, EMBEDDED_TILE.of(slide.kind))


def _on_tissue(tissue: _Tissue, pair: Pair, xy: np.ndarray, size_px: int) -> np.ndarray:
    """Tell, (N,) bool, whether the real tiles at (N, 2) places of a generated image are such as get embedded."""
    mask, cells, least = tissue
    start = (np.array(pair.real_xy) + xy * pair.scale) * cells
    stop = start + size_px * pair.scale * cells
    (left, right), (top, bottom) = (
        nearest_cells(start[:, axis], stop[:, axis], count) for axis, count in enumerate(mask.shape[::-1])
    )
    fractions: np.ndarray = box_fractions(mask, top, bottom, left, right)
    return fractions >= least
