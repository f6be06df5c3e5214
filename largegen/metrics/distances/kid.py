"""Kernel distance (KID): the squared maximum mean discrepancy of two sets of features, and its standard error."""

from typing import NamedTuple

import numpy as np

from largegen.metrics.distances.frechet import check_pair

MAX_SAMPLES = 20_000  # samples of a side that are used; time grows with their square
BLOCK_ROWS = 512  # of the kernel matrix held at a time


def kernel_distance(real: np.ndarray, fake: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Compute the kernel distance (KID) and its standard error (Bińkowski et al. 2018, section 4).

    The unbiased estimator over all pairs, with the kernel (x·y / D + 1)³; it may be below zero. The mean over random
    subsets that is often reported estimates the same with more noise.

    The standard error is for independent samples. With the kernels' means per sample r and their doubly centred mean
    squares q, Hoeffding's decomposition of the estimator has a variance of the first order, seen through
    4 var(r_real) / N + 4 var(r_fake) / M (a jackknife, which counts the second order twice), and one of the second,
    2 q_rr / N² + 2 q_ff / M² + 4 q_rf / NM, which alone is left where both sides have the same distribution.

    Args:
        real: Features (N, D).
        fake: Features (M, D).
        seed: Draws the part of a side of more than `MAX_SAMPLES` samples that is used.

    Returns:
        The distance and its standard error.
    """
    real, fake = check_pair(real, fake, least=4)
    rng = np.random.default_rng(seed)
    real, fake = (rng.choice(s, MAX_SAMPLES, replace=False) if len(s) > MAX_SAMPLES else s for s in (real, fake))
    n, m = len(real), len(fake)
    rr, ff, rf = _within(real), _within(fake), _between(real, fake)
    value = rr.mean + ff.mean - 2 * rf.mean
    jackknife = 4 * np.var(rr.rows - rf.rows, ddof=1) / n + 4 * np.var(ff.rows - rf.columns, ddof=1) / m
    second = 2 * rr.centred_square / n**2 + 2 * ff.centred_square / m**2 + 4 * rf.centred_square / (n * m)
    return float(value), float(np.sqrt(max(jackknife - second, second, 0.0)))


class _Kernel(NamedTuple):
    """Means over a kernel matrix."""

    rows: np.ndarray  # (N,) of each row
    columns: np.ndarray  # (M,) of each column
    square: float  # of the squared entries

    @property
    def mean(self) -> float:
        return float(self.rows.mean())

    @property
    def centred_square(self) -> float:
        """The mean square of the entries less the means of their row and column, plus the mean of all."""
        rows, columns = np.square(self.rows).mean(), np.square(self.columns).mean()
        return float(self.square - rows - columns + self.mean**2)


def _between(a: np.ndarray, b: np.ndarray) -> _Kernel:
    rows, columns, square = np.empty(len(a)), np.zeros(len(b)), 0.0
    for start in range(0, len(a), BLOCK_ROWS):
        kernel = _cubic(a[start : start + BLOCK_ROWS] @ b.T, a.shape[1])
        rows[start : start + BLOCK_ROWS] = kernel.mean(axis=1)
        columns += kernel.sum(axis=0)
        square += np.vdot(kernel, kernel)
    return _Kernel(rows, columns / len(a), square / (len(a) * len(b)))


def _within(a: np.ndarray) -> _Kernel:
    """Take the kernel of a set with itself, less the pairs of a sample with itself, which would bias the estimate."""
    n, every, own = len(a), _between(a, a), _cubic(np.square(a).sum(axis=1), a.shape[1])
    rows = (every.rows * n - own) / (n - 1)
    return _Kernel(rows, rows, (every.square * n**2 - np.square(own).sum()) / (n * (n - 1)))


def _cubic(products: np.ndarray, dim: int) -> np.ndarray:
    """Apply the kernel to inner products."""
    base = products / dim + 1
    return base * base * base
