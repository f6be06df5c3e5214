"""The transformer that denoises tokens: positions, modulation, masks."""

import math

import pytest
import torch

from largegen.models.dit import DiT, positions


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = DiT(3, 2, 16, 2, 4)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return network.eval()


def call(network, tokens, mask=None, timestep=5, condition=0.0):
    count = len(tokens)
    condition = torch.full((count, 16), condition)
    return network(tokens, torch.zeros(tokens.shape[1], 16), torch.full((count,), timestep), condition, mask)


def test_positions_are_sines_then_cosines_of_falling_frequencies():
    found = positions(torch.tensor([[3.0]]), 4)[0]
    assert found.tolist() == pytest.approx([math.sin(3), math.sin(0.03), math.cos(3), math.cos(0.03)], abs=1e-6)


def test_positions_of_two_coordinates_stand_side_by_side():
    found = positions(torch.tensor([[3.0, 7.0]]), 8)
    assert found.equal(torch.cat([positions(torch.tensor([[one]]), 4) for one in (3.0, 7.0)], 1))


def test_a_new_network_gives_zeros():
    assert not call(DiT(3, 2, 16, 2, 4), torch.randn(2, 5, 3)).any()


def test_what_the_mask_hides_is_not_seen(network):
    tokens = torch.randn(1, 6, 3)
    mask = torch.tensor([[True, True, True, True, False, False]])
    changed = tokens.clone()
    changed[:, 4:] += 10
    assert call(network, tokens, mask)[:, :4].equal(call(network, changed, mask)[:, :4])
    assert torch.allclose(call(network, tokens, mask)[:, :4], call(network, tokens[:, :4]), atol=1e-5)
    assert not torch.allclose(call(network, tokens)[:, :4], call(network, changed)[:, :4])


@pytest.mark.parametrize("change", [{"timestep": 900}, {"condition": 1.0}])
def test_time_and_condition_count(network, change):
    tokens = torch.randn(1, 6, 3)
    assert not torch.allclose(call(network, tokens), call(network, tokens, **change))
