"""The figures of the benchmark of priors, held against closed forms."""

import numpy as np
import pytest
from benchmarks.prior_figures import by_heart, figures_of, gaussian_like, neighbours_of, shuffled_like, windows_of

RNG = np.random.default_rng(0)


def test_windows_and_neighbours_are_parts_of_the_grid():
    grid = np.arange(30.0).reshape(5, 6, 1)
    windows = windows_of([grid, grid], 4, 2)
    assert windows.shape == (4, 4, 4, 1) and (windows[1] == grid[:4, 2:6]).all()
    pairs = neighbours_of(windows[:1])
    assert pairs.shape == (24, 2) and set(pairs[:, 1] - pairs[:, 0]) == {1, 6}


def test_the_gaussian_has_the_mean_and_covariance_of_the_windows():
    windows = RNG.normal(size=(400, 2, 2, 1)) + np.arange(4.0).reshape(2, 2, 1)
    windows[:, 1] += 2 * windows[:, 0]
    drawn = gaussian_like(windows, 20_000, RNG).reshape(20_000, -1)
    flat = windows.reshape(400, -1)
    assert np.allclose(drawn.mean(0), flat.mean(0), atol=0.1)
    assert np.allclose(np.cov(drawn.T), np.cov(flat.T), rtol=0.1, atol=0.1)


def test_shuffled_tiles_are_real_ones_without_layout():
    windows = np.repeat(np.arange(8.0), 16).reshape(8, 4, 4, 1)
    drawn = shuffled_like(windows, 50, RNG)
    assert drawn.shape == (50, 4, 4, 1) and set(drawn.ravel()) == set(range(8))
    assert np.ptp(drawn.reshape(50, -1), axis=1).min() > 0


def test_a_window_known_by_heart_is_at_no_distance():
    training = RNG.normal(size=(30, 4, 4, 3))
    assert by_heart(training[:5], training) == pytest.approx(0, abs=1e-3)
    assert by_heart(training[:5] + 0.5, training) == pytest.approx(0.5, abs=1e-3)


def test_windows_without_layout_differ_in_their_neighbours_alone():
    real = np.repeat(RNG.normal(size=(60, 1, 1, 3)), 4, axis=1).repeat(4, axis=2) + 0.1 * RNG.normal(size=(60, 4, 4, 3))
    found, same = figures_of(real, shuffled_like(real, 60, RNG)), figures_of(real, real)
    assert found["FD of neighbours"] > 10 * found["FD of tiles"] and found["KD of neighbours"] > 0.01
    assert same["FD of neighbours"] == pytest.approx(0, abs=1e-3) and same["precision"] == same["recall"] == 1


def test_a_window_known_by_heart_is_found_when_it_is_turned():
    training = RNG.normal(size=(30, 4, 4, 3))
    assert by_heart(np.rot90(training[:5], 1, (1, 2))[:, ::-1], training) == pytest.approx(0, abs=1e-3)
