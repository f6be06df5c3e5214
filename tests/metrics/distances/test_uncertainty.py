"""Intervals, extrapolation and floors of distances between sets whose true distance is known."""

import numpy as np
import pytest

from largegen.errors import InputError
from largegen.metrics.distances.frechet import frechet_distance_of_features
from largegen.metrics.distances.uncertainty import bootstrap_interval, distance_at_infinity, real_floor

WIDTH, SHIFT = 16, 0.4
TRUTH = SHIFT**2 + WIDTH * 0.2**2  # of the two Gaussians that `draw` draws from


def draw(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Real and fake features (count, WIDTH) float32."""
    real, fake = np.random.default_rng(seed).normal(size=(2, count, WIDTH))
    fake = fake * 1.2
    fake[:, 0] += SHIFT
    return real.astype(np.float32), fake.astype(np.float32)


def shift_of_means(real: np.ndarray, fake: np.ndarray) -> float:
    """A distance without bias, whose sampling error is known."""
    return float(fake[:, 0].mean() - real[:, 0].mean() + 10)


def test_the_interval_covers_what_other_draws_give():
    """95 % of intervals or more hold the mean of the figure over all draws of as many samples."""
    figures, intervals = [], []
    for seed in range(100):
        real, fake = draw(200, seed)
        figures.append(frechet_distance_of_features(real, fake))
        intervals.append(bootstrap_interval(frechet_distance_of_features, real, fake))
    low, high = np.transpose(intervals)
    assert np.mean((low <= np.mean(figures)) & (np.mean(figures) <= high)) >= 0.95
    assert 1 < np.mean(high - low) / (2 * 1.96 * np.std(figures)) < 1.7


def test_the_interval_of_a_mean_has_the_known_width():
    real, fake = draw(400, 0)
    low, high = bootstrap_interval(shift_of_means, real, fake, replicates=400, level=0.9)
    assert (low + high) / 2 == pytest.approx(shift_of_means(real, fake))
    expected = 1.645 * np.sqrt((1 + 1.2**2) / 400)
    assert (high - low) / 2 == pytest.approx(expected, rel=0.12)


def test_the_interval_is_centred_on_the_figure_and_never_below_zero():
    real, fake = draw(60, 0)
    low, high = bootstrap_interval(frechet_distance_of_features, real, fake)
    assert (low + high) / 2 == pytest.approx(frechet_distance_of_features(real, fake))
    low, high = bootstrap_interval(lambda a, b: abs(shift_of_means(a, b) - 10), real, real)
    assert low == 0 < high


def test_the_interval_is_the_same_for_the_same_seed():
    real, fake = draw(60, 0)
    first, again, other = (bootstrap_interval(frechet_distance_of_features, real, fake, seed=s) for s in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("options", [{"replicates": 1}, {"level": 1.0}, {"level": 0}])
def test_intervals_of_nothing_are_refused(options):
    with pytest.raises(InputError, match="replicates at level"):
        bootstrap_interval(shift_of_means, *draw(60, 0), **options)


@pytest.mark.parametrize("count", [48, 150, 600])
def test_extrapolation_is_nearer_to_the_truth(count):
    plain, extrapolated = [], []
    for seed in range(12):
        real, fake = draw(count, seed)
        plain.append(frechet_distance_of_features(real, fake))
        extrapolated.append(distance_at_infinity(real, fake))
    error, plain_error = (np.sqrt(np.mean(np.square(np.array(found) - TRUTH))) for found in (extrapolated, plain))
    assert error < plain_error / 2


def test_extrapolation_takes_sides_of_different_sizes():
    real, fake = draw(900, 0)
    found = distance_at_infinity(real, fake[:200])
    assert abs(found - TRUTH) < abs(frechet_distance_of_features(real, fake[:200]) - TRUTH) / 2


def test_extrapolation_is_deterministic_and_no_less_than_zero():
    real, fake = draw(60, 0)
    assert distance_at_infinity(real, fake, seed=1) == distance_at_infinity(real, fake, seed=1)
    assert distance_at_infinity(real, fake, seed=1) != distance_at_infinity(real, fake, seed=2)
    assert distance_at_infinity(real, real) == 0  # the parts are no farther from one another than the whole


def test_extrapolation_of_a_few_samples_is_none():
    assert distance_at_infinity(*draw(5, 0)) is None
    assert distance_at_infinity(*draw(6, 0)) >= 0


def test_the_floor_is_between_disjoint_halves():
    seen = []
    features = np.arange(22.0).reshape(11, 2)
    real_floor(lambda a, b: seen.append((a, b)) or 0.0, features)
    (a, b), rows = seen[0], {tuple(row) for row in features}
    a, b = ({tuple(row) for row in half} for half in (a, b))
    assert len(a) == len(b) == 5 and not a & b and a | b < rows


def test_the_floor_is_below_a_distance_that_means_something():
    real, fake = draw(800, 0)
    floor = real_floor(frechet_distance_of_features, real)
    assert 0 < floor < frechet_distance_of_features(real, fake) / 2
    assert floor == real_floor(frechet_distance_of_features, real)
    with pytest.raises(InputError, match="3 sample"):
        real_floor(frechet_distance_of_features, real[:3])
