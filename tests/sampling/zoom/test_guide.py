"""The constraint of a guide: exact for a linear decoder, the smallest change, and each tile under its own piece."""

import pytest
import torch
import torch.nn.functional as F

from largegen.errors import InputError, ModelError
from largegen.models.linear_decoder import LinearDecoder, fit_linear_decoder
from largegen.sampling.zoom.guide import GuideConstraint

FACTOR, CHANNELS = 8, 12


@pytest.fixture(scope="module")
def decoder():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, FACTOR, FACTOR, CHANNELS, generator=generator) / 10 + 0.03
    return LinearDecoder(weight, torch.randn(3, FACTOR, FACTOR, generator=generator) / 10)


def decode(decoder, latents):
    """What a linear decoder makes of latents (B, C, h, w)."""
    squares = torch.einsum("oijc,bchw->boijhw", decoder.weight, latents) + decoder.bias[..., None, None]
    return F.pixel_shuffle(squares.flatten(1, 3), decoder.factor)


def far(decoder, latents, shrink):
    return F.avg_pool2d(decode(decoder, latents), shrink)


def latents(seed=0, side=8):
    return torch.randn(1, CHANNELS, side, side, generator=torch.Generator().manual_seed(seed))


def test_a_linear_decoder_is_found_exactly(decoder):
    values = torch.cat([latents(seed) for seed in range(4)]) / 20  # no image leaves [-1, 1]
    found = fit_linear_decoder(lambda part: decode(decoder, part), values)
    torch.testing.assert_close(found.weight, decoder.weight, atol=1e-2, rtol=0)
    assert (decode(found, values) - decode(decoder, values)).abs().max() < 1e-3
    assert found.factor == FACTOR


@pytest.mark.parametrize("shrink", [2, 4, 8, 16, 32])
def test_what_is_seen_is_the_decoded_image_shrunk(decoder, shrink):
    side = 64 // shrink
    constraint = GuideConstraint(decoder, torch.zeros(1, 3, side, side), shrink)
    seen = constraint.seen(latents())
    image = F.pixel_shuffle(seen, FACTOR // shrink) if shrink < FACTOR else seen
    torch.testing.assert_close(image, far(decoder, latents(), shrink), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shrink", [4, 8, 16, 32])
def test_corrected_latents_look_like_the_guide(decoder, shrink):
    guide = far(decoder, latents(1), shrink)
    before = latents(2)
    after = GuideConstraint(decoder, guide, shrink)(before)
    error, was = ((far(decoder, x, shrink) - guide).square().mean() for x in (after, before))
    assert error < (0.3 if shrink == 4 else 0.01) * was  # at 4, there are as many conditions as channels


def test_nothing_changes_that_the_guide_does_not_see(decoder):
    guide = far(decoder, latents(1), 16)
    change = GuideConstraint(decoder, guide, 16)(latents(2)) - latents(2)
    rows = decoder.weight.mean((1, 2))  # (3, C): what the guide sees
    unseen = torch.linalg.svd(rows)[2][3:]
    assert torch.einsum("oc,bchw->bohw", unseen, change).abs().max() < 1e-4


@pytest.mark.parametrize("shrink", [16, 32])
def test_the_change_has_no_steps_where_the_guide_has_none(decoder, shrink):
    """A guide whose colour rises evenly moves the latents evenly, not a square of them at a time."""
    start = torch.zeros(1, CHANNELS, 16, 16)
    side = 128 // shrink
    guide = far(decoder, start, shrink) + torch.linspace(0, 1, side)
    change = (GuideConstraint(decoder, guide, shrink)(start) - start)[0, :, 8, 4:-4]
    steps = change.diff(dim=-1).abs().sum(0)
    assert steps.max() < 1.3 * steps.min()


def test_every_place_sees_its_own_piece_of_the_guide(decoder):
    start = latents(3, side=16)
    guide = far(decoder, start, 16)
    straight = GuideConstraint(decoder, guide, 16)(start)
    guide[0, :, 0, 6] += 0.5  # first row, last column but one
    change = (GuideConstraint(decoder, guide, 16)(start) - straight).abs().sum((0, 1))
    assert divmod(change.argmax().item(), 16) in {(row, col) for row in (0, 1) for col in (12, 13)}
    assert F.avg_pool2d(change[None], 2)[0, 0, 6] > 3 * F.avg_pool2d(change[None], 2)[0, 0, 4]
    assert change[6:].max() < 0.05 * change.max() and change[:, :8].max() < 0.05 * change.max()


def test_scales_that_do_not_fit(decoder):
    with pytest.raises(InputError, match="a guide 3 times smaller"):
        GuideConstraint(decoder, torch.zeros(1, 3, 4, 4), 3)


def test_it_is_saved_and_loaded(decoder, tmp_path):
    assert LinearDecoder.load(tmp_path / "linear.safetensors") is None
    decoder.save(tmp_path / "linear.safetensors")
    loaded = LinearDecoder.load(tmp_path / "linear.safetensors")
    assert torch.equal(loaded.weight, decoder.weight) and torch.equal(loaded.bias, decoder.bias)
    (tmp_path / "linear.safetensors").write_bytes(b"no")
    with pytest.raises(ModelError, match="damaged"):
        LinearDecoder.load(tmp_path / "linear.safetensors")
