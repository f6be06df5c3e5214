"""Embedding similarity: how like a tile is to the one that was generated in its place [L]."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from largegen.errors import InputError
from largegen.metrics.sets.pair_tiles import Batch

if TYPE_CHECKING:
    from largegen.models.encoder import Encoder


RETRIEVAL_ROWS = 1024  # tiles that are compared with all others of their pair at once


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
    scaled: np.ndarray = values / lengths
    return scaled


def retrieval(generated: np.ndarray, real: np.ndarray) -> int:
    """Count the tiles' embeddings (N, D) that have the real one of the same place as nearest neighbour (cosine)."""
    generated, real = unit(generated), unit(real)
    nearest = [(generated[i : i + RETRIEVAL_ROWS] @ real.T).argmax(1) for i in range(0, len(real), RETRIEVAL_ROWS)]
    return int((np.concatenate(nearest) == np.arange(len(real))).sum())
