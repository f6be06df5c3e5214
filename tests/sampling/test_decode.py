"""From a canvas of latents to bands of pixels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from largegen.models.pixels import to_uint8
from largegen.sampling.decode import BLOCK, block_sizes, decode_blocks, decode_canvas

FACTOR = 4


def enlarge(latents):
    """A decoder in miniature: each latent becomes FACTOR x FACTOR pixels."""
    return latents.repeat_interleave(FACTOR, 2).repeat_interleave(FACTOR, 3)


def slanted(latents):
    """A decoder whose windows disagree: a ramp along each of them."""
    pixels = enlarge(latents)
    return pixels * 0.3 + torch.linspace(-0.6, 0.6, pixels.shape[-1]) * torch.linspace(0, 1, pixels.shape[-2])[:, None]


def canvas(height, width):
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def decoded(decode, latents, **options):
    options = {"factor": FACTOR, "window": 16, "stride": 8} | options
    bands = list(decode_canvas(decode, latents, **options))
    edge = 0
    for y0, band in bands:
        assert y0 == edge  # top to bottom, no gap
        edge += len(band)
    return np.concatenate([band for _, band in bands])


@pytest.mark.parametrize(
    ("height", "width", "stride"), [(40, 28, 8), (40, 28, 16), (16, 16, 4), (9, 50, 5), (17, 12, 16)]
)
def test_windows_that_agree_are_blended_to_themselves(height, width, stride):
    latents = canvas(height, width)
    image = decoded(enlarge, latents, stride=stride)
    assert image.shape == (height * FACTOR, width * FACTOR, 3)
    assert image.dtype == np.uint8
    expected = to_uint8(enlarge(latents))[0].permute(1, 2, 0).numpy()
    assert np.abs(image.astype(int) - expected.astype(int)).max() <= 1  # rounding of the blend


def test_blend_is_the_gaussian_weighted_mean():
    latents = canvas(24, 40)
    d = torch.linspace(-1, 1, 64)
    weight = torch.exp(-(d[:, None] ** 2 + d**2) / 0.8**2)
    total, weights = torch.zeros(3, 96, 160), torch.zeros(96, 160)
    for top in (0, 8):
        for left in (0, 8, 16, 24):
            y, x = slice(top * 4, top * 4 + 64), slice(left * 4, left * 4 + 64)
            total[:, y, x] += slanted(latents[..., top : top + 16, left : left + 16])[0] * weight
            weights[y, x] += weight
    expected = to_uint8(total / weights).permute(1, 2, 0).numpy()
    difference = np.abs(decoded(slanted, latents).astype(int) - expected.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.001


def test_same_pixels_for_every_batch_size():
    latents = canvas(40, 56)
    one = decoded(slanted, latents, batch_size=1)
    for batch_size in (2, 100):
        assert np.array_equal(decoded(slanted, latents, batch_size=batch_size), one)


def test_bands_go_out_before_the_rest_is_decoded():
    calls = []

    def decode(latents):
        calls.append(len(latents))
        return enlarge(latents)

    bands = decode_canvas(decode, canvas(400, 16), factor=FACTOR, window=16, stride=8)
    y0, band = next(bands)
    assert (y0, band.shape) == (0, (8 * FACTOR, 16 * FACTOR, 3))
    assert calls == [1]


def test_background_is_painted_and_not_decoded():
    latents = canvas(48, 64)
    skip = torch.zeros(48, 64, dtype=torch.bool)
    skip[:, 20:] = True
    skip[:16] = True
    rights = []

    def decode(windows):
        rights.append(len(windows))
        return enlarge(windows)

    image = decoded(decode, latents, skip=skip, skip_colour=(240, 230, 250))
    painted = skip.numpy().repeat(FACTOR, 0).repeat(FACTOR, 1)
    assert (image[painted] == (240, 230, 250)).all()
    assert np.array_equal(image[~painted], decoded(enlarge, latents)[~painted])
    assert sum(rights) == 4 * 3  # tops 8, 16, 24, 32; lefts 0, 8, 16


def test_grey_levels():
    pixels = torch.tensor([-2.0, -1.0, 0.0, 1.0, 3.0])
    assert to_uint8(pixels).tolist() == [0, 0, 128, 255, 255]


def test_a_margin_keeps_the_decoders_padding_out_of_the_image():
    """A decoder that spoils the outermost latent of what it is given spoils the canvas' edge only."""

    def decode(latents):
        pixels = enlarge(latents)
        for edge in (np.s_[..., :FACTOR, :], np.s_[..., -FACTOR:, :], np.s_[..., :FACTOR], np.s_[..., -FACTOR:]):
            pixels[edge] = 1.0
        return pixels

    latents = canvas(40, 56)
    whole = to_uint8(enlarge(latents))[0].permute(1, 2, 0).numpy()
    inside = np.s_[FACTOR:-FACTOR, FACTOR:-FACTOR]
    apart = [np.abs(decoded(decode, latents, margin=m).astype(int) - whole)[inside].max() for m in (0, 1)]
    assert apart[0] > 10 and apart[1] <= 1


REACH = 2


def blurred(latents, around=(0, 0, 0, 0)):
    """A decoder that sees REACH latents around, and padding where there are none."""
    kernel = torch.arange(1.0, 26.0).view(1, 1, 5, 5) / 325
    above, below, left, right = around
    seen = F.conv2d(latents, kernel.expand(3, 1, 5, 5), padding=REACH, groups=3)
    return enlarge(seen[..., above : seen.shape[2] - below, left : seen.shape[3] - right])


def in_blocks(latents, decode=blurred, **options):
    bands = list(decode_blocks(decode, latents, factor=FACTOR, reach=REACH, **options))
    tops = np.cumsum([(options.get("between") or (0,))[0] * FACTOR, *(len(band) for _, band in bands)])
    assert [y0 for y0, _ in bands] == tops[:-1].tolist()
    return np.concatenate([band for _, band in bands])


@pytest.mark.parametrize(("height", "width"), [(64, 128), (9, 5), (130, 260), (65, 129)])
def test_blocks_are_the_canvas_decoded_whole(height, width):
    latents, sides = canvas(height, width), []

    def decode(block, around):
        sides.append((block.shape[2] - sum(around[:2]), block.shape[3] - sum(around[2:])))
        return blurred(block, around)

    assert np.array_equal(in_blocks(latents, decode), to_uint8(blurred(latents))[0].permute(1, 2, 0).numpy())
    assert sides == block_sizes(height, width)


def test_rows_in_blocks_are_those_of_the_whole():
    latents = canvas(150, 20)
    whole = in_blocks(latents)
    for first, last in ((0, 150), (10, 70), (64, 128), (149, 150)):
        assert np.array_equal(in_blocks(latents, between=(first, last)), whole[first * FACTOR : last * FACTOR])


def test_blocks_of_background_are_painted_and_not_decoded():
    latents, skip = canvas(100, 300), np.zeros((100, 300), bool)
    skip[: BLOCK[0], 100:] = True
    decoded_ones = []

    def decode(block, around):
        decoded_ones.append(block.shape)
        return blurred(block, around)

    image = in_blocks(latents, decode, skip=skip, skip_colour=(240, 230, 250))
    painted = skip.repeat(FACTOR, 0).repeat(FACTOR, 1)
    assert (image[painted] == (240, 230, 250)).all()
    assert np.array_equal(image[~painted], in_blocks(latents)[~painted])
    assert len(decoded_ones) == len(block_sizes(100, 300, skip)) == 4
