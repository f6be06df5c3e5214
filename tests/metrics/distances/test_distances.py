"""Fréchet and kernel distances, precision, recall and neighbours, held against closed forms and against clean-fid."""

import numpy as np
import pytest
from cleanfid import fid as clean

from largegen.errors import InputError
from largegen.metrics.distances.frechet import (
    Gaussian,
    Moments,
    frechet_distance,
    frechet_distance_of_features,
    gaussian_of,
)
from largegen.metrics.distances.kid import kernel_distance
from largegen.metrics.distances.precision_recall import nearest, precision_recall


def normal(count: int, width: int, seed: int = 0, deviation=1.0, shift=0.0) -> np.ndarray:
    """(count, width) float32."""
    return (np.random.default_rng(seed).normal(size=(count, width)) * deviation + shift).astype(np.float32)


def correlated(count: int, width: int, seed: int = 0) -> np.ndarray:
    """(count, width) float64 with a covariance that commutes with no other's."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, width)) @ rng.normal(size=(width, width)) + rng.normal(size=width)


def rotation(width: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(9).normal(size=(width, width)))[0]


def exact(mean, covariance) -> Gaussian:
    return Gaussian(100, np.asarray(mean, np.float64), np.asarray(covariance, np.float64))


def test_frechet_distance_in_one_dimension():
    # (m1 - m2)² + (s1 - s2)²
    assert frechet_distance(exact([1], [[4]]), exact([4], [[25]])) == pytest.approx(9 + 9)


def test_frechet_distance_of_shifted_means():
    same = gaussian_of(correlated(50, 8)).covariance
    assert frechet_distance(exact(np.zeros(8), same), exact(np.full(8, 3), same)) == pytest.approx(72)


def test_frechet_distance_of_commuting_covariances():
    a, b = np.array([1.0, 4, 9, 16, 0]), np.array([4.0, 4, 1, 0, 0])  # also where each is singular
    turn = rotation(5)
    expected = np.square(np.sqrt(a) - np.sqrt(b)).sum()
    found = frechet_distance(exact(np.ones(5), turn * a @ turn.T), exact(np.ones(5), turn * b @ turn.T))
    assert found == pytest.approx(expected, abs=1e-6)


def test_frechet_distance_to_a_point():
    spread = gaussian_of(correlated(50, 8))
    point = exact(np.zeros(8), np.zeros((8, 8)))
    expected = np.square(spread.mean).sum() + np.trace(spread.covariance)
    assert frechet_distance(spread, point) == pytest.approx(expected)
    assert frechet_distance(point, point) == 0


@pytest.mark.parametrize("counts", [(200, 300), (10, 300), (10, 12)])
def test_frechet_distance_is_symmetric_and_turns_with_the_axes(counts):
    a, b = (correlated(count, 24, seed) for seed, count in enumerate(counts))
    found = frechet_distance(gaussian_of(a), gaussian_of(b))
    assert frechet_distance(gaussian_of(b), gaussian_of(a)) == pytest.approx(found, rel=1e-9)
    turn = rotation(24)
    assert frechet_distance(gaussian_of(a @ turn), gaussian_of(b @ turn)) == pytest.approx(found, rel=1e-6)


@pytest.mark.parametrize("counts", [(200, 300), (10, 300), (10, 12)])
def test_frechet_distance_of_features_is_that_of_their_gaussians(counts):
    a, b = (correlated(count, 24, seed) for seed, count in enumerate(counts))
    expected = frechet_distance(gaussian_of(a), gaussian_of(b))
    assert frechet_distance_of_features(a, b) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("decades", [1, 6])  # well-conditioned or not, which are computed in two ways
@pytest.mark.parametrize("count", [40, 64, 65, 5000])
def test_frechet_distance_of_equal_sets_is_zero(count, decades):
    features = 10 * normal(count, 64, deviation=np.logspace(0, -decades, 64))
    gaussian = gaussian_of(features)
    assert frechet_distance(gaussian, gaussian) == pytest.approx(0, abs=1e-6)
    assert frechet_distance_of_features(features, features) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_agrees_with_clean_fid():
    a, b = gaussian_of(correlated(300, 32, 1)), gaussian_of(correlated(300, 32, 2))
    expected = clean.frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_moments_are_those_of_numpy():
    features = normal(70, 12, shift=100)
    found = gaussian_of(features)
    assert found.count == 70
    np.testing.assert_allclose(found.mean, features.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(features.astype(np.float64), rowvar=False), atol=1e-12)


@pytest.mark.parametrize("sizes", [[1] * 70, [64, 6], [3, 60, 0, 7]])
def test_moments_do_not_depend_on_batches(sizes):
    features = normal(70, 12, shift=100)  # means far from zero, where sums of squares would lose digits
    moments = Moments(12)
    for batch in reversed(np.split(features, np.cumsum(sizes)[:-1])):
        moments.add(batch)
    expected = gaussian_of(features)
    np.testing.assert_allclose(moments.gaussian().mean, expected.mean, rtol=1e-10)
    np.testing.assert_allclose(moments.gaussian().covariance, expected.covariance, atol=1e-10)


def test_merged_moments_are_those_of_all():
    features, parts = normal(70, 12, shift=100), [Moments(12), Moments(12), Moments(12)]
    parts[0].add(features[:9])
    parts[1].add(features[9:])
    parts[0].merge(parts[1])
    parts[0].merge(parts[2])  # one that has seen nothing
    merged, expected = parts[0].gaussian(), gaussian_of(features)
    assert merged.count == 70
    np.testing.assert_allclose(merged.mean, expected.mean, rtol=1e-10)
    np.testing.assert_allclose(merged.covariance, expected.covariance, atol=1e-10)


@pytest.mark.parametrize("count", [0, 1])
def test_a_covariance_needs_two_samples(count):
    moments = Moments(4)
    moments.add(normal(count, 4))
    with pytest.raises(InputError, match=rf"^{count} sample"):
        moments.gaussian()


def test_broken_features_are_counted():
    moments, features = Moments(4), normal(8, 4)
    moments.add(features)
    features[2, 1:3], features[5, 0] = np.nan, np.inf
    with pytest.raises(InputError, match="batch 2: 2 of 8 samples"):
        moments.add(features)
    assert moments.count == 8


def test_features_of_another_width_are_refused():
    with pytest.raises(InputError, match=r"shape \(8, 5\)"):
        Moments(4).add(normal(8, 5))
    with pytest.raises(InputError, match="dimensions 5 and 4"):
        Moments(4).merge(Moments(5))
    with pytest.raises(InputError, match="dimensions 4 and 5"):
        frechet_distance(gaussian_of(normal(8, 4)), gaussian_of(normal(8, 5)))
    for metric in (kernel_distance, precision_recall, frechet_distance_of_features, nearest):
        with pytest.raises(InputError, match="features have shape"):
            metric(normal(8, 4), normal(8, 5))


def test_kernel_distance_by_its_definition():
    x, y = normal(7, 3).astype(np.float64), normal(5, 3, seed=1, shift=1).astype(np.float64)

    def mean(a, b, skip=False):
        return np.mean(
            [(p @ q / 3 + 1) ** 3 for i, p in enumerate(a) for j, q in enumerate(b) if not (skip and i == j)]
        )

    expected = mean(x, x, skip=True) + mean(y, y, skip=True) - 2 * mean(x, y)
    assert kernel_distance(x, y)[0] == pytest.approx(expected)


def test_kernel_distance_agrees_with_clean_fid():
    real, fake = normal(400, 16), normal(300, 16, seed=1, deviation=1.2, shift=0.2)
    np.random.seed(0)  # clean-fid draws from the global generator
    values = [clean.kernel_distance(real, fake, num_subsets=10, max_subset_size=150) for _ in range(30)]
    found, error = kernel_distance(real, fake)
    assert found == pytest.approx(np.mean(values), abs=4 * np.std(values) / np.sqrt(len(values)))
    assert 0 < error < found


@pytest.mark.parametrize("shift", [0.0, 0.03, 0.3], ids=["equal", "close", "far"])
def test_kernel_distance_is_unbiased_and_its_error_honest(shift):
    """Over independent draws: the mean is the truth, here known for a shift s, and z-scores have deviation 1."""
    width, draws = 24, 120
    found = np.array(
        [kernel_distance(normal(90, width, 2 * i), normal(60, width, 2 * i + 1, shift=shift)) for i in range(draws)]
    )

    # Moments of p = x·y / D: E k = 1 + 3 E p + 3 E p² + E p³, for x, y ~ N(m, 1) with means a, b and D = width
    def expected(a, b):
        p = a * b
        second = p**2 + (1 + a**2 + b**2) / width
        third = p**3 + 3 * p * (1 + a**2 + b**2) / width + 6 * p / width**2
        return 1 + 3 * p + 3 * second + third

    truth = expected(0, 0) + expected(shift, shift) - 2 * expected(0, shift)
    values, errors = found.T
    assert values.mean() == pytest.approx(truth, abs=3 * values.std() / np.sqrt(draws))
    assert 0.7 < np.std((values - truth) / errors) < 1.4


def test_kernel_distance_draws_a_part_of_large_sets_by_seed(monkeypatch):
    real, fake = normal(300, 4), normal(50, 4, seed=1)
    assert kernel_distance(real, fake, seed=1) == kernel_distance(real, fake, seed=2)
    monkeypatch.setattr("largegen.metrics.distances.kid.MAX_SAMPLES", 100)
    first = kernel_distance(real, fake, seed=1)
    assert first == kernel_distance(real, fake, seed=1)
    assert first != kernel_distance(real, fake, seed=2)


def test_precision_and_recall_see_what_is_missing():
    left, right = normal(200, 6), normal(200, 6, seed=1, shift=50)
    both = np.concatenate([normal(200, 6, seed=2), normal(200, 6, seed=3, shift=50)])
    precision, recall = precision_recall(both, left)  # fake shows one of two modes
    assert precision > 0.8 and 0.3 < recall < 0.5
    precision, recall = precision_recall(left, both)
    assert 0.3 < precision < 0.5 and recall > 0.8
    assert precision_recall(left, right) == (0, 0)
    assert precision_recall(left, left) == (1, 1)


def test_precision_and_recall_by_their_definition():
    real, fake = normal(40, 3).astype(np.float64), normal(30, 3, seed=1, deviation=1.5).astype(np.float64)

    def covered(points, centres, k):
        between = np.linalg.norm(centres[:, None] - centres, axis=2)
        reach = np.sort(between, axis=1)[:, k]
        return np.mean([(np.linalg.norm(centres - point, axis=1) <= reach).any() for point in points])

    for k in (1, 3):
        assert precision_recall(real, fake, k) == (covered(fake, real, k), covered(real, fake, k))


def test_duplicates_cover_themselves_alone():
    """A sample with k copies reaches no farther than itself, for all the rounding of large features."""
    copies = np.repeat(normal(20, 64, shift=1000), 5, axis=0)
    assert precision_recall(copies, copies) == (1, 1)
    assert precision_recall(copies, copies + np.float32(0.01)) == (0, 0)


@pytest.mark.parametrize("k", [0, 5])
def test_precision_needs_more_samples_than_neighbours(k):
    with pytest.raises(InputError):
        precision_recall(normal(5, 3), normal(9, 3), k=k)


def test_nearest_is_exact_search(monkeypatch):
    monkeypatch.setattr("largegen.metrics.distances.precision_recall.BLOCK_ROWS", 16)
    queries, base = normal(50, 8), normal(70, 8, seed=1)
    every = np.linalg.norm(queries[:, None].astype(np.float64) - base, axis=2)
    indices, distances = nearest(queries, base, 4)
    np.testing.assert_array_equal(indices, np.argsort(every, axis=1)[:, :4])
    np.testing.assert_allclose(distances, np.sort(every, axis=1)[:, :4], rtol=1e-12)


def test_nearest_of_a_copy_is_the_first_copy_at_no_distance():
    base = np.concatenate([normal(9, 32, shift=1000)] * 3)
    indices, distances = nearest(base, base, 3)
    np.testing.assert_array_equal(indices[:9], np.arange(9)[:, None] + [0, 9, 18])
    assert (distances == 0).all()


def test_nearest_cannot_find_more_than_there_are():
    assert nearest(normal(2, 3), normal(5, 3), 5)[0].shape == (2, 5)
    with pytest.raises(InputError, match="6 neighbours of 5"):
        nearest(normal(2, 3), normal(5, 3), 6)
