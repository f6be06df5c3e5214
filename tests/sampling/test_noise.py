"""Noise keyed by (seed, step, place)."""

import time

import torch

from largegen.sampling.noise import INITIAL, noise, seed_from


def test_any_crop_equals_the_crop_of_the_whole():
    whole = noise(5, 2, 0, 0, 40, 50, 3)
    assert whole.shape == (1, 3, 40, 50)
    assert whole.dtype == torch.float32
    for top, left, height, width in [(0, 0, 8, 8), (3, 5, 20, 17), (39, 49, 1, 1), (8, 16, 32, 34)]:
        crop = whole[:, :, top : top + height, left : left + width]
        assert torch.equal(noise(5, 2, top, left, height, width, 3), crop)


def test_the_field_goes_on_to_negative_places():
    whole = noise(0, 0, -12, -20, 24, 40, 2)
    assert torch.equal(noise(0, 0, 0, 0, 12, 20, 2), whole[..., 12:, 20:])


def test_it_is_standard_normal():
    values = noise(0, INITIAL, 0, 0, 512, 512, 3).double()
    n = values.numel()
    assert abs(values.mean()) < 4 / n**0.5
    assert abs(values.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs((values**4).mean() - 3) < 4 * (96 / n) ** 0.5
    assert values.abs().max() > 4.5


def test_neighbours_channels_steps_and_seeds_are_independent():
    a = noise(1, 0, 0, 0, 256, 256, 2)
    others = [
        noise(1, 1, 0, 0, 256, 256, 2),
        noise(1, INITIAL, 0, 0, 256, 256, 2),
        noise(2, 0, 0, 0, 256, 256, 2),
        noise(0, 1, 0, 0, 256, 256, 2),  # seed and step do not stand for each other
        a.roll(1, -1),
        a.roll(8, -1),
        a.roll(1, -2),
        a.roll(8, -2),
        a.flip(1),
        a.transpose(2, 3).roll(1, -1),  # row and column do not stand for each other
    ]
    for other in others:
        assert abs((a * other).mean()) < 4.5 / (a.numel() / 2) ** 0.5


def test_fewer_channels_are_the_first_ones():
    assert torch.equal(noise(0, 0, 0, 0, 16, 16, 3), noise(0, 0, 0, 0, 16, 16, 4)[:, :3])


def test_its_values_never_change():
    """The same seed makes the same image in every release."""
    expected = torch.tensor([0.5356715, -0.2326397, 1.2010033, 0.5445017])
    torch.testing.assert_close(noise(0, INITIAL, 0, 0, 1, 4, 1).flatten(), expected, rtol=1e-6, atol=1e-6)


def test_large_and_negative_seeds_are_taken():
    assert not torch.equal(noise(-1, 0, 0, 0, 8, 8, 1), noise(2**63, 0, 0, 0, 8, 8, 1))


def test_a_4096_px_canvas_takes_a_moment():
    start = time.perf_counter()
    noise(0, INITIAL, 0, 0, 1024, 1024, 3)
    assert time.perf_counter() - start < 5


def test_a_generator_gives_a_new_seed_each_time():
    seeds = [seed_from(torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert seeds[0] == seeds[1] != seeds[2]
    generator = torch.Generator().manual_seed(0)
    assert seed_from(generator) != seed_from(generator)
