"""Variations of grids of embeddings."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.embeddings import MeanColour
from helpers.models import flat_grid
from helpers.slides import tissue_like

from largegen.augmenting.variations import mixed, recoloured, restained


def test_a_mixture_lies_between(model):
    a, b = flat_grid(model, 4, 6, 1), flat_grid(model, 2, 3, 2)
    np.testing.assert_allclose(mixed(a, b, 0.0).features, a.features, atol=1e-5)
    whole = mixed(a, b, 1.0).features
    np.testing.assert_allclose(whole, b.features.repeat(2, 0).repeat(2, 1), atol=1e-5)
    half = mixed(a, a, 0.5).features
    np.testing.assert_allclose(half, a.features, atol=1e-5)


def test_glass_is_not_mixed(model):
    a, b = flat_grid(model, 2, 2, 1), flat_grid(model, 2, 2, 2)
    glass = np.array([[True, False], [True, True]])
    found = mixed(a, replace(b, tissue=glass), 1.0).features
    np.testing.assert_array_equal(found[0, 1], a.features[0, 1])
    np.testing.assert_allclose(found[0, 0], b.features[0, 0], atol=1e-5)


def test_recolouring_keeps_glass_and_moves_tissue():
    image = np.concatenate([np.full((8, 8, 3), 255, np.uint8), np.full((8, 8, 3), (180, 90, 150), np.uint8)])
    shown = recoloured(image, 0.25, np.random.default_rng(0))
    assert (shown[:8] >= 254).all() and np.abs(shown[8:].astype(int) - image[8:]).max() > 10
    np.testing.assert_array_equal(recoloured(image, 0.0, np.random.default_rng(0)), image)


def test_embeddings_move_as_those_of_recoloured_tiles_do(model):
    """Of an encoder that is the mean colour, the whole grid moves by the change of the mean colour."""
    grid = replace(flat_grid(model, 2, 2), features=np.zeros((2, 2, 6), np.float32))
    tiles = np.stack([tissue_like(64, 64, seed) for seed in range(3)])
    found = restained(grid, tiles, MeanColour(), 0.3, np.random.default_rng(5)).features
    shown = recoloured(tiles, 0.3, np.random.default_rng(5))
    wanted = (shown.astype(float) - tiles).reshape(3, -1, 3).mean((0, 1))
    np.testing.assert_allclose(found[..., :3], np.broadcast_to(wanted, (2, 2, 3)), atol=1e-2)
    assert np.abs(wanted).max() == pytest.approx(np.abs(found[0, 0, :3]).max(), abs=1e-2) and np.abs(wanted).max() > 2
