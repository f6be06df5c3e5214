"""Embedding similarity: how like a tile is to the one that was generated in its place [L]."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from largegen.errors import InputError
from largegen.metrics.sets.pairs import Pair
from largegen.runtime.read_ahead import read_ahead
from largegen.slides.slide import open_slide
from largegen.slides.tissue import DATA_FRACTION, TISSUE_FRACTION, tissue_mask

if TYPE_CHECKING:
    from largegen.models.encoder import Encoder


MAX_KEPT_MASKS = 16  # of real images, that are kept for further pairs
RETRIEVAL_ROWS = 1024  # tiles that are compared with all others of their pair at once

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
        mask, least = tissue_mask(slide), DATA_FRACTION if slide.kind == "scene" else TISSUE_FRACTION
        return _Tissue(mask, np.array(mask.shape[::-1]) / (slide.width, slide.height), least)


def _on_tissue(tissue: _Tissue, pair: Pair, xy: np.ndarray, size_px: int) -> np.ndarray:
    """Tell, (N,) bool, whether the real tiles at (N, 2) places of a generated image are such as get embedded."""
    mask, cells, least = tissue
    start = (np.array(pair.real_xy) + xy * pair.scale) * cells
    first = np.minimum(np.round(start).astype(int), np.array(mask.shape[::-1]) - 1)
    last = np.maximum(np.round(start + size_px * pair.scale * cells).astype(int), first + 1)
    boxes = np.concatenate([first, last], axis=1).tolist()
    return np.array([mask[top:bottom, left:right].mean() >= least for left, top, right, bottom in boxes])


@dataclass(frozen=True)
class Similarity:
    """Cosines between the embeddings of real tiles and of those generated in their places."""

    mean: float  # over all tiles
    standard_error: float | None  # of the mean, as if tiles were independent; None for a single one
    values: np.ndarray  # (N,) float64, by tile
    baseline: float | None  # mean cosine between real tiles at different places of a pair; None where all have one tile
    retrieved: int  # tiles whose own real one is the most similar of all of their pair


def embed_pairs(batches: Iterable[Batch], encoder: "Encoder") -> tuple[np.ndarray, np.ndarray]:
    """Compute embeddings (N, D) float32 of the real tiles and of the generated ones, in the batches' order."""
    parts = [(encoder.encode(real), encoder.encode(fake)) for _, real, fake in batches]
    if not parts:
        return np.empty((0, encoder.dim), np.float32), np.empty((0, encoder.dim), np.float32)
    real, fake = zip(*parts, strict=True)
    return np.concatenate(real), np.concatenate(fake)


def similarity(real: np.ndarray, fake: np.ndarray, pair: np.ndarray) -> Similarity:
    """Compare embeddings of real tiles and of those generated in their places.

    Args:
        real: Embeddings (N, D).
        fake: Embeddings (N, D).
        pair: (N,) number of the image of each.

    Raises:
        InputError: There is no tile, or an embedding that has no direction.
    """
    if not len(real):
        raise InputError("no tile of a generated image lies on tissue of its real one")
    real, fake = unit(real), unit(fake)
    values = (real * fake).sum(1)
    others, counted, retrieved = 0.0, 0, 0
    for number in np.unique(pair):
        own = real[pair == number]
        retrieved += retrieval(fake[pair == number], own)
        if len(own) > 1:  # |sum of u_i|^2 is the sum of all u_i u_j, and the u_i u_i are 1
            others += (np.square(own.sum(0)).sum() - len(own)) / (len(own) - 1)
            counted += len(own)
    return Similarity(
        mean=float(values.mean()),
        standard_error=float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None,
        values=values,
        baseline=float(others / counted) if counted else None,
        retrieved=retrieved,
    )


def unit(embeddings: np.ndarray) -> np.ndarray:
    """Scale embeddings (N, D) to length 1, float64. Raises InputError where one is zero or not finite."""
    values = embeddings.astype(np.float64)
    lengths = np.linalg.norm(values, axis=-1, keepdims=True)
    if not np.isfinite(lengths).all() or not lengths.all():
        raise InputError("an embedding is zero or not finite; try fp32 as `precision`")
    return values / lengths


def retrieval(generated: np.ndarray, real: np.ndarray) -> int:
    """Count the tiles' embeddings (N, D) that have the real one of the same place as nearest neighbour (cosine)."""
    generated, real = unit(generated), unit(real)
    nearest = [(generated[i : i + RETRIEVAL_ROWS] @ real.T).argmax(1) for i in range(0, len(real), RETRIEVAL_ROWS)]
    return int((np.concatenate(nearest) == np.arange(len(real))).sum())
