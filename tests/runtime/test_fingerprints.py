"""Fingerprints are stored in files: what each gives for the same weights must never change."""

import pytest
import torch
from torch import nn

from largegen.runtime.fingerprints import content_digest, network_checksum, network_digest


@pytest.fixture
def network():
    net = nn.Sequential(nn.Linear(70, 50), nn.BatchNorm1d(50))
    with torch.no_grad():
        for number, value in enumerate(net.parameters()):
            value.copy_(torch.arange(value.numel()).reshape(value.shape) / 64 - number)
    return net


def test_the_values_of_version_0_1_0(network):
    assert network_checksum(network) == "8dde5fac"
    assert network_digest(network, ([0.5], [2.0])) == "e0de777fb4bb3186"
    whole = content_digest([b"a", b"b"], network.parameters())
    assert whole == "a6349600c00fe67646ec896e6c2fdb62b82a81e6c5bbb66c9d75191bfbe474d8"


def test_they_tell_networks_apart(network):
    about = ([0.5], [2.0])
    before = network_checksum(network), network_digest(network, about), content_digest([], network.parameters())
    with torch.no_grad():
        network[0].weight[0, 0] += 1
    after = network_checksum(network), network_digest(network, about), content_digest([], network.parameters())
    assert all(one != other for one, other in zip(before, after, strict=True))
    assert network_digest(network, ([0.5], [3.0])) != after[1]
    assert content_digest([b"a"], network.parameters()) != after[2]
