"""VGG16 and ST-LPIPS, with the weights that come with stlpips-pytorch."""

import numpy as np
import pytest
import torch

from largegen.metrics.features.networks import load_network, perceptual_network
from largegen.metrics.per_image.perceptual import perceptual_distances
from largegen.metrics.results import NotApplicable
from largegen.models.perceptual import load_perceptual
from largegen.models.pixels import to_network

CPU = torch.device("cpu")
TILES = np.random.default_rng(0).integers(0, 256, (5, 48, 48, 3), np.uint8)


@pytest.fixture(scope="module")
def network():
    pytest.importorskip("stlpips_pytorch", reason="carries the weights: install largegen[perceptual]")
    return perceptual_network(CPU)


def test_features_are_the_means_of_five_layers_whatever_the_batch(network):
    vgg = load_network("vgg16", device="cpu")
    found = vgg.features(TILES)
    with torch.inference_mode():
        layers = network.net(network.scaling_layer(to_network(TILES)))
    assert [layer.shape[1] for layer in layers] == [64, 128, 256, 512, 512] and vgg.dim == 1472
    means = np.concatenate([layer.numpy().mean((2, 3)) for layer in layers], 1)
    assert found.dtype == np.float32 and np.allclose(found, means, rtol=1e-4, atol=1e-5)
    assert np.allclose(found, np.concatenate([vgg.features(TILES[i : i + 1]) for i in range(5)]), rtol=1e-4, atol=1e-5)


def test_distances_are_those_of_the_package_pair_by_pair_and_none_of_a_tile_to_itself(network):
    others = TILES[::-1].copy()
    batches = [(np.arange(3), TILES[:3], others[:3]), (np.arange(3, 5), TILES[3:], others[3:])]
    found = perceptual_distances(batches, network, CPU)
    with torch.inference_mode():
        expected = network(to_network(TILES), to_network(others)).flatten().numpy()
    assert found.shape == (5,) and found.dtype == np.float64 and np.allclose(found, expected, rtol=1e-4)
    assert found[2] == 0 and (found[[0, 1, 3, 4]] > 0.01).all()  # the middle one is its own partner


def test_it_learns_nothing(network):
    assert not any(parameter.requires_grad for parameter in network.parameters()) and not network.training


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("largegen.models.perceptual.find_spec", lambda _: None)
    perceptual_network.cache_clear()
    with pytest.raises(NotApplicable, match=r"pip install 'largegen\[perceptual\]'"):
        load_network("vgg16", device="cpu")
    with pytest.raises(ValueError, match="stlpips-pytorch"):
        load_perceptual()
