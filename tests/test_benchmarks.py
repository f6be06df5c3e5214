"""The figures that the benchmarks print, held against closed forms and made-up images."""

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from benchmarks.yardsticks import (
    encode_all,
    r_squared,
    random_crops,
    ridge,
    tiles_of,
)

FOLDER = Path(__file__).parent / "benchmarks"
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("[a-z]*.py")))
def test_what_a_benchmark_uses_is_there(name, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import_module(name)


def texture(size=256):
    return RNG.integers(60, 160, (size, size, 3), dtype=np.uint8)


def test_tiles_and_crops_are_parts_of_the_image():
    image = texture(96)
    tiles = tiles_of(image, 32)
    assert tiles.shape == (9, 32, 32, 3)
    assert (tiles[5] == image[32:64, 64:96]).all()
    crops = random_crops(image, 96, 3, seed=0)
    assert (crops == image).all()
    means = encode_all(lambda batch: batch.mean((1, 2)), tiles, batch=4)
    assert np.allclose(means, tiles.mean((1, 2)))


def test_ridge_finds_a_linear_map_and_nothing_in_noise():
    inputs = RNG.normal(size=(600, 8))
    targets = inputs @ RNG.normal(size=(8, 3)) + 5
    fit = ridge(inputs[:400], targets[:400], strength=1e-6)
    assert r_squared(fit(inputs[400:]), targets[400:]) > 0.999
    noise = RNG.normal(size=(600, 3))
    assert r_squared(ridge(inputs[:400], noise[:400])(inputs[400:]), noise[400:]) < 0.05
