"""Mean and covariance of features, gathered batch by batch, and the Fréchet distance of two sets of them."""

from dataclasses import dataclass

import numpy as np

from largegen.errors import InputError


@dataclass(frozen=True)
class Gaussian:
    """What a Fréchet distance knows of a set of features."""

    count: int  # samples it was estimated from
    mean: np.ndarray  # (D,) float64
    covariance: np.ndarray  # (D, D) float64, unbiased


class Moments:
    """Mean and covariance of features that come batch by batch, in constant memory and float64.

    Batches and partial results are joined by the exact update of Chan, Golub and LeVeque 1979, so their order and sizes
    change the result by rounding alone.
    """

    def __init__(self, dim: int):
        self.dim = dim
        self.count = 0
        self._batches = 0
        self._mean = np.zeros(dim)
        self._scatter = np.zeros((dim, dim))  # sum of the outer products of deviations from the mean

    def add(self, features: np.ndarray) -> None:
        """Take in a batch (N, D). Raises InputError for another dimension, and for NaN or infinite features."""
        self._batches += 1
        mean, deviations = _centred(check_features(features, f"batch {self._batches}", self.dim))
        self._join(len(deviations), mean, deviations.T @ deviations)

    def merge(self, other: "Moments") -> None:
        """Take in all that another one has seen."""
        if other.dim != self.dim:
            raise InputError(f"features of dimensions {other.dim} and {self.dim} do not belong to one set")
        self._join(other.count, other._mean, other._scatter)
        self._batches += other._batches

    def gaussian(self) -> Gaussian:
        """Return what was seen so far. Raises InputError under two samples, which have no covariance."""
        if self.count < 2:
            raise InputError(f"{self.count} sample(s): a covariance needs two at the least; give more images or crops")
        return Gaussian(self.count, self._mean.copy(), self._scatter / (self.count - 1))

    def _join(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        if not count:
            return
        total = self.count + count
        shift = mean - self._mean
        between = shift * np.sqrt(self.count * (count / total))
        self._scatter += scatter
        self._scatter += np.outer(between, between)
        self._mean += shift * (count / total)
        self.count = total


def check_features(features: np.ndarray, name: str, dim: int | None = None) -> np.ndarray:
    """Return features as (N, D) float64.

    Raises:
        InputError: They have another shape or dimension, or NaN or infinite values.
    """
    values = np.asarray(features, np.float64)
    if values.ndim != 2 or (dim is not None and values.shape[1] != dim):
        expected = "D" if dim is None else dim
        raise InputError(f"{name}: features have shape {values.shape}, not (N, {expected}); use one network for all")
    broken = int((~np.isfinite(values).all(axis=1)).sum())
    if broken:
        raise InputError(
            f"{name}: {broken} of {len(values)} samples have NaN or infinite features; use a higher precision (fp32)"
        )
    return values


def check_pair(real: np.ndarray, fake: np.ndarray, least: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Return both sets as (N, D) float64.

    Raises:
        InputError: One has under `least` samples, or they differ in D.
    """
    real = check_features(real, "real")
    fake = check_features(fake, "fake", real.shape[1])
    for name, values in (("real", real), ("fake", fake)):
        if len(values) < least:
            raise InputError(f"{name}: {len(values)} sample(s), and this metric needs {least}; give more images")
    return real, fake


def gaussian_of(features: np.ndarray) -> Gaussian:
    """Compute count, mean and covariance of features (N, D). Raises InputError under two samples, and for NaN."""
    moments = Moments(np.shape(features)[-1])
    moments.add(features)
    return moments.gaussian()


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Compute the Fréchet distance |m1 - m2|² + tr(S1 + S2 - 2 (S1 S2)^½) of two Gaussians.

    Dowson and Landau 1982; as FID: Heusel et al. 2017, equation 6.

    Raises:
        InputError: The Gaussians are of different dimensions, or the distance is not finite.
    """
    if a.mean.shape != b.mean.shape:
        raise InputError(f"features of dimensions {len(a.mean)} and {len(b.mean)} cannot be compared; use one network")
    return _distance(a.mean, _factor(a.covariance), b.mean, _factor(b.covariance))


def frechet_distance_of_features(real: np.ndarray, fake: np.ndarray) -> float:
    """Compute the Fréchet distance of features, (N, D) and (M, D): much faster where N and M are less than D."""
    real, fake = check_pair(real, fake)
    return _distance(*_mean_and_factor(real), *_mean_and_factor(fake))


def _distance(mean_a: np.ndarray, a: np.ndarray, mean_b: np.ndarray, b: np.ndarray) -> float:
    """Compute the Fréchet distance of Gaussians with the covariances a aᵀ and b bᵀ; a, b: (D, rank).

    The eigenvalues of S1 S2 are the squared singular values of aᵀ b, which need no symmetric root.
    """
    spread = np.square(a).sum() + np.square(b).sum()
    distance = np.square(mean_a - mean_b).sum() + spread
    if not np.isfinite(distance):
        raise InputError("the distance is not finite: features overflow, or statistics are damaged; compute them again")
    distance -= 2 * _sum_of_singular_values(a.T @ b, 1e-9 * spread)
    return max(0.0, float(distance))  # rounding alone takes it below


def _sum_of_singular_values(matrix: np.ndarray, tolerance: float) -> float:
    """Compute it to within `tolerance`, as roots of the eigenvalues of the matrix's square where they are exact enough.

    That is the faster way, but it blurs eigenvalues by about √n times the machine epsilon of the largest, and the root
    of one near zero then has half the digits.
    """
    from scipy.linalg import eigvalsh, svdvals

    if not matrix.any():
        return 0.0
    squares = eigvalsh(matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix, overwrite_a=True)
    blur = np.sqrt(len(squares)) * np.finfo(float).eps * squares[-1]
    if (blur / np.sqrt(squares.clip(blur))).sum() <= tolerance:
        return float(np.sqrt(squares.clip(0)).sum())
    return float(svdvals(matrix, overwrite_a=True).sum())


def _factor(covariance: np.ndarray) -> np.ndarray:
    """Factor a covariance: the (D, rank) result times its own transpose is the covariance.

    By Cholesky's factorization with pivoting, which takes singular matrices and drops what is rounding: the directions
    with a variance under D times the machine epsilon of the largest.
    """
    from scipy.linalg.lapack import dpstrf

    packed, pivots, rank, _ = dpstrf(covariance, lower=1)
    factor = np.empty((len(covariance), rank))
    factor[pivots - 1] = np.tril(packed)[:, :rank]
    return factor


def _mean_and_factor(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, deviations = _centred(features)
    if len(features) <= features.shape[1]:
        return mean, deviations.T / np.sqrt(len(features) - 1)
    return mean, _factor(deviations.T @ deviations / (len(features) - 1))


def _centred(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = features.mean(axis=0) if len(features) else np.zeros(features.shape[1])
    return mean, features - mean
