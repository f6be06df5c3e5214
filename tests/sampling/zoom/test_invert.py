"""Inversion: embeddings that explain an image are found, alike whatever is beside them, and no longer than needed."""

from dataclasses import replace

import pytest
import torch
from helpers.denoisers import ALPHA_BAR, TRAIN

from largegen.errors import InputError
from largegen.sampling.settings import Inversion
from largegen.sampling.zoom.invert import ROUND, invert, likeness, standardized, timesteps

DIM, SIDE, WINDOW = 6, 2, 8
FROM_VIEW = Inversion(invert_steps=60, invert_rate=0.1)


def under(noisy, timestep, grids):
    """The exact eps of latents that are their tile's embedding, channel by channel, for sure."""
    clean = standardized(grids).movedim(-1, 1).repeat_interleave(WINDOW // SIDE, 2).repeat_interleave(WINDOW // SIDE, 3)
    kept = ALPHA_BAR[timestep]
    return (noisy - kept.sqrt() * clean) / (1 - kept).sqrt()


def grids(count, seed=0):
    return standardized(torch.randn(count, SIDE, SIDE, DIM, generator=torch.Generator().manual_seed(seed)))


def shown(embeddings):
    """The latents that `under` takes for those of these embeddings."""
    return embeddings.movedim(-1, 1).repeat_interleave(WINDOW // SIDE, 2).repeat_interleave(WINDOW // SIDE, 3)


def noise_at(step, places=(0, 1, 2)):
    parts = [
        torch.randn(1, DIM, WINDOW, WINDOW, generator=torch.Generator().manual_seed(100 * step + n + 100))
        for n in places
    ]
    return torch.cat(parts)


def cosine(a, b):
    return torch.cosine_similarity(a, b, dim=-1).mean().item()


@pytest.mark.parametrize("start", ["view", "noise"])
def test_the_embeddings_of_an_image_are_found(start):
    true, first = grids(3), grids(3, 1)
    found, _ = invert(under, TRAIN, shown(true), first, noise_at, replace(FROM_VIEW, start=start))
    assert cosine(first, true) < 0.5 and cosine(found, true) > 0.95
    torch.testing.assert_close(found.mean(-1), torch.zeros(3, SIDE, SIDE), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.std(-1), torch.ones(3, SIDE, SIDE))


def test_what_is_beside_an_image_makes_no_difference():
    true, first = grids(3), grids(3, 1)
    together, steps = invert(under, TRAIN, shown(true), first, noise_at, FROM_VIEW)
    alone, own = invert(under, TRAIN, shown(true)[1:2], first[1:2], lambda step: noise_at(step, (1,)), FROM_VIEW)
    torch.testing.assert_close(alone[0], together[1], atol=1e-5, rtol=1e-4)
    assert own[0] == steps[1]


def test_an_image_whose_loss_no_longer_falls_is_done():
    true, done = grids(2), []
    first = torch.stack([true[0], grids(1, 1)[0]])
    many = replace(FROM_VIEW, invert_steps=400)
    bias = 0.5 * noise_at(-1, (0,))  # what no embedding explains

    def imperfect(*arguments):
        return under(*arguments) + bias

    found, steps = invert(imperfect, TRAIN, shown(true), first, lambda step: noise_at(step, (0, 1)), many, done.append)
    assert steps[0] <= steps[1] < 400 and not steps[0] % ROUND
    assert cosine(found[0], true[0]) > 0.95 and sum(done) == 2 * 400


def test_from_noise_the_timesteps_go_down_once_as_published():
    down = timesteps(Inversion("noise", 200))
    assert down[0] == 950 and down[-1] == 50 and down == sorted(down, reverse=True) and len(down) == 200
    rounds = timesteps(Inversion("view", 25))
    assert rounds[:ROUND] == rounds[ROUND : 2 * ROUND] and rounds[0] == 950 and rounds[ROUND - 1] == 50


def test_likeness_is_the_mean_cosine_of_pairs():
    values = grids(1)
    flat = torch.nn.functional.normalize(values.flatten(1, 2)[0], dim=-1)
    pairs = [flat[a] @ flat[b] for a in range(4) for b in range(4) if a != b]
    torch.testing.assert_close(likeness(values)[0], torch.stack(pairs).mean(), atol=1e-6, rtol=1e-5)
    assert likeness(grids(1)[:, :1, :1]).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"start": "bicubic"}, "`start` bicubic: use one of view, noise"),
        ({"invert_steps": -1}, "`invert_steps` -1: must be between 0 and 1000"),
        ({"invert_rate": float("nan")}, "`invert_rate` nan"),
    ],
)
def test_settings_that_cannot_be(changes, text):
    with pytest.raises(InputError, match=text):
        Inversion(**changes).check()
