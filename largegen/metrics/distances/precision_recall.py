"""Nearest neighbours in feature space: exact search, and improved precision and recall."""

from collections.abc import Iterator

import numpy as np

from largegen.errors import InputError
from largegen.metrics.distances.frechet import check_features, check_pair

BLOCK_ROWS = 512  # of the distance matrix held at a time
SPARE_CANDIDATES = 8  # candidates beyond those asked for, whose order is settled by exact distances
RELATIVE_ROUNDING = 1e-12  # of squared distances, relative to the largest squared norm of the centred features


def precision_recall(real: np.ndarray, fake: np.ndarray, k: int = 3) -> tuple[float, float]:
    """Compute improved precision and recall (Kynkäänniemi et al. 2019, section 2).

    Duplicates count as others. Both figures grow with the number of samples, so compare figures of equal counts alone.

    Args:
        real: Features (N, D).
        fake: Features (M, D).
        k: Which nearest neighbour is the edge of a sample's surroundings.

    Returns:
        Precision: the share (0..1) of fake samples no farther from some real sample than that one's k-th nearest other
        real sample. Recall: the same with the sides exchanged.

    Raises:
        InputError: A side has k samples or fewer.
    """
    if k < 1:
        raise InputError(f"k = {k}: precision and recall need one neighbour at the least")
    real, fake = _centred(*check_pair(real, fake, least=k + 1))
    slack = RELATIVE_ROUNDING * max(np.square(side).sum(axis=1).max() for side in (real, fake))
    real_reach, fake_reach = (_reach(side, k) + slack for side in (real, fake))
    precise, recalled = np.zeros(len(fake), bool), np.zeros(len(real), bool)
    for rows, squares in _squared_distances(fake, real):
        precise[rows] = (squares <= real_reach).any(axis=1)
        recalled |= (squares <= fake_reach[rows, None]).any(axis=0)
    return float(precise.mean()), float(recalled.mean())


def nearest(queries: np.ndarray, base: np.ndarray, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest neighbours of samples, exactly.

    Args:
        queries: Features (Q, D).
        base: Features (N, D) to search.
        count: Neighbours of each query.

    Returns:
        Indices (Q, count) int64 into base and Euclidean distances (Q, count) float64, the nearest first; of equals the
        first in base.

    Raises:
        InputError: base has fewer than `count` samples.
    """
    base = check_features(base, "base")
    queries = check_features(queries, "queries", base.shape[1])
    if not 1 <= count <= len(base):
        raise InputError(f"{count} neighbours of {len(base)} samples cannot be found; ask for 1 to {len(base)}")
    base, queries = _centred(base, queries)
    kept = min(count + SPARE_CANDIDATES, len(base))
    indices, distances = np.empty((len(queries), count), np.int64), np.empty((len(queries), count))
    for rows, squares in _squared_distances(queries, base):
        candidates = np.sort(np.argpartition(squares, kept - 1, axis=1)[:, :kept], axis=1)
        exact = np.stack([np.linalg.norm(base[c] - q, axis=1) for c, q in zip(candidates, queries[rows], strict=True)])
        order = np.argsort(exact, axis=1, kind="stable")[:, :count]
        indices[rows] = np.take_along_axis(candidates, order, axis=1)
        distances[rows] = np.take_along_axis(exact, order, axis=1)
    return indices, distances


def _reach(samples: np.ndarray, k: int) -> np.ndarray:
    """Compute (N,) squared distances of each sample to its k-th nearest other; it is the nearest of all to itself."""
    return np.concatenate(
        [np.partition(squares, k, axis=1)[:, k] for _, squares in _squared_distances(samples, samples)]
    )


def _squared_distances(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield chunks of rows of the matrix (N, M) of squared distances, with the rows that they are."""
    norms_a, norms_b = np.square(a).sum(axis=1), np.square(b).sum(axis=1)
    for start in range(0, len(a), BLOCK_ROWS):
        rows = slice(start, min(start + BLOCK_ROWS, len(a)))
        squares = a[rows] @ b.T
        squares *= -2
        squares += norms_a[rows, None]
        squares += norms_b
        yield rows, squares


def _centred(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre both sets about one mean, which leaves more digits to their distances."""
    middle = a.mean(axis=0)
    return a - middle, b - middle
