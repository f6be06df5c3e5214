"""How far to trust a distance: bootstrap intervals, extrapolation to infinitely many samples, real against real."""

from collections.abc import Callable

import numpy as np

from largegen.errors import InputError
from largegen.metrics.distances.frechet import check_features, check_pair, frechet_distance_of_features

Distance = Callable[[np.ndarray, np.ndarray], float]  # of features (N, D) and (M, D)

SPLITS = (1, 2, 3)  # how many the samples are dealt into, for each size that the extrapolation sees


def bootstrap_interval(
    distance: Distance, real: np.ndarray, fake: np.ndarray, replicates: int = 20, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Compute an interval about distance(real, fake), from samples drawn again with replacement on both sides.

    It says how much another draw of as many samples would move the figure: the point estimate ± the replicates'
    standard deviation times Student's quantile for that many, and never below zero. The replicates' spread alone is
    used, because samples drawn twice count as a smaller set, so that replicates of a Fréchet distance lie above it.
    For a Fréchet distance the interval is rather too wide: about 1.2 times with six samples per dimension, 2 times with
    fewer samples than dimensions. The bias of the figure, which depends on the counts, is no part of it (see
    `distance_at_infinity`). Samples count as independent: crops that overlap or come from few images make it too
    narrow.

    Args:
        distance: Of features (N, D) and (M, D).
        real: Features (N, D).
        fake: Features (M, D).
        replicates: How often samples are drawn again.
        level: Confidence, 0..1.
        seed: Of the draws.

    Returns:
        Lower and upper end.
    """
    from scipy.special import stdtrit

    if replicates < 2 or not 0 < level < 1:
        raise InputError(f"{replicates} replicates at level {level:g}: use 2 or more, and a level between 0 and 1")
    check_pair(real, fake)
    rng = np.random.default_rng(seed)
    found = [distance(_resampled(real, rng), _resampled(fake, rng)) for _ in range(replicates)]
    point = distance(real, fake)
    margin = float(np.std(found, ddof=1) * stdtrit(replicates - 1, (1 + level) / 2))
    return max(0.0, point - margin), point + margin


def distance_at_infinity(real: np.ndarray, fake: np.ndarray, seed: int = 0) -> float | None:
    """Extrapolate the Fréchet distance to infinitely many samples (Chong and Forsyth 2020, arXiv:1911.07023).

    Its bias falls as 1 / N, so a line through distances at several N gives it at 1 / N = 0. Both sides shrink together:
    to all samples, halves and thirds. The parts of one size are disjoint and their distances are averaged, which about
    halves the noise of single random subsets. With fewer samples than dimensions the bias falls more slowly than 1 / N,
    and the result, though nearer to the truth, is still too high.

    Returns:
        The distance, 0 where noise takes it below; None where a side has under two samples for each third.
    """
    real, fake = check_pair(real, fake)
    if min(len(real), len(fake)) < 2 * max(SPLITS):
        return None
    rng = np.random.default_rng(seed)
    real, fake = rng.permutation(real), rng.permutation(fake)
    means = []
    for parts in SPLITS:
        pairs = zip(np.array_split(real, parts), np.array_split(fake, parts), strict=True)
        means.append(np.mean([frechet_distance_of_features(*pair) for pair in pairs]))
    return max(0.0, float(np.polyfit(SPLITS, means, 1)[1]))  # N shrinks as 1 / parts


def real_floor(distance: Distance, real: np.ndarray, seed: int = 0) -> float:
    """Compute the distance between two random halves of the real features (N, D): what a perfect generator would score.

    The halves are half as many, so a distance that is biased by the count is higher here than for all samples.

    Raises:
        InputError: There are under four samples.
    """
    real = check_features(real, "real")
    if len(real) < 4:
        raise InputError(f"real: {len(real)} sample(s), and two halves need four at the least; give more images")
    order = np.random.default_rng(seed).permutation(len(real))
    half = len(real) // 2
    return float(distance(real[order[:half]], real[order[half : 2 * half]]))


def _resampled(features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return features[rng.integers(len(features), size=len(features))]
