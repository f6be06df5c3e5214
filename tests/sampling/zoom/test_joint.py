"""Joint sampling as published: geometry, what the inner iteration does, its exact cost, and resuming."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from helpers.denoisers import TRAIN, pointwise

from largegen.models.info import ModelInfo
from largegen.sampling.resume import Checkpoint
from largegen.sampling.schedulers import clean_of, eps_of, make_scheduler
from largegen.sampling.settings import Sampling, Zooming
from largegen.sampling.zoom.downsample import enlarge, shrink
from largegen.sampling.zoom.joint import pieces_of, sample_jointly, whole_of
from largegen.sampling.zoom.zoom import count_work, zoom_latents

PUBLISHED = Zooming("published")
SIDE, WINDOW, FACTOR = 4, 8, 4  # 16 tiles of 8 latents, 32 px


def toy_eps(latents, timestep, contexts):
    """The exact eps of latents around a mean that the context gives."""
    return pointwise(contexts.mean((1, 2))[:, None, None, None], 0.3)(latents, timestep, contexts)


def decode(latents):
    """A linear decoder: 3 of the channels, as squares of 4 px."""
    return latents[:, :3].repeat_interleave(FACTOR, -1).repeat_interleave(FACTOR, -2) / 3


def encode(images):
    return torch.cat([3 * F.avg_pool2d(images, FACTOR), torch.zeros(len(images), 1, WINDOW, WINDOW)], 1)


def noise(count, seed=0):
    return torch.randn(count, 4, WINDOW, WINDOW, generator=torch.Generator().manual_seed(seed))


def contexts(count, seed=1):
    return torch.randn(count, 1, 5, generator=torch.Generator().manual_seed(seed)) / 2


def joint(zooming=PUBLISHED, steps=6, denoise=toy_eps, **options):
    arguments = {
        **{"tiles": noise(SIDE**2), "guide": noise(1, 2), "side": SIDE, "zooming": zooming},
        **{"tile_contexts": contexts(SIDE**2), "guide_context": contexts(1, 3)},
    }
    return sample_jointly(denoise, decode, encode, make_scheduler("ddim", TRAIN, steps), **arguments | options)


def test_tiles_and_pieces_lie_row_by_row():
    canvas = torch.arange(12.0).view(1, 1, 2, 6)  # asymmetric: x is not y
    tiles = pieces_of(canvas, 1, 3)
    assert tiles[:, 0].tolist() == [[[0, 1], [6, 7]], [[2, 3], [8, 9]], [[4, 5], [10, 11]]]
    assert torch.equal(whole_of(tiles, 1, 3), canvas)
    canvas = torch.randn(1, 2, 6, 9)
    pieces = pieces_of(canvas, 2, 3)
    assert torch.equal(whole_of(pieces, 2, 3), canvas)
    assert torch.equal(pieces[4], canvas[0, :, 3:, 3:6])


def test_without_inner_steps_tiles_are_sampled_by_themselves():
    tiles, guide = joint(replace(PUBLISHED, inner_steps=0))
    for start, context, sampled in ((noise(16), contexts(16), tiles), (noise(1, 2), contexts(1, 3), guide)):
        scheduler, x = make_scheduler("ddim", TRAIN, 6), start
        for timestep in scheduler.timesteps:
            x = scheduler.step(toy_eps(x, timestep, context), timestep, x).prev_sample
        torch.testing.assert_close(sampled, x, atol=1e-4, rtol=1e-4)


def distance(tiles, guide):
    """How far the shrunk tiles are from their pieces of the guide."""
    return (shrink(decode(tiles), SIDE) - pieces_of(decode(guide).clamp(-1, 1), SIDE, SIDE)).square().mean().item()


def test_more_inner_steps_come_nearer_to_the_guide():
    found = [distance(*joint(replace(PUBLISHED, inner_steps=k, inner_rate=0.1))) for k in (0, 2, 4, 8)]
    assert found == sorted(found, reverse=True) and found[-1] < 0.5 * found[0]


def test_each_inner_step_moves_the_shrunk_image_towards_the_guide():
    scheduler = make_scheduler("ddim", TRAIN, 6)
    timestep = scheduler.timesteps[3]
    guide = torch.zeros(1, 3, 32, 32)
    guide[..., :8, 24:] = 0.8  # the upper right corner, not the lower left
    pieces, errors = pieces_of(guide, SIDE, SIDE), []

    def watching_decode(latents):
        image = decode(latents)
        errors.append((shrink(image, SIDE) - pieces).square().flatten(1).mean(1))
        return image

    from largegen.sampling.zoom.joint import _towards

    def predict(noisy, context):
        return clean_of(toy_eps(noisy, timestep, context), noisy, scheduler, timestep)

    _towards(
        pieces,
        noise(16) * 0.1,
        contexts(16),
        predict,
        watching_decode,
        encode,
        replace(PUBLISHED, inner_steps=6, inner_rate=0.02),
    )
    errors = torch.stack(errors)  # (steps, tiles)
    assert (errors.diff(dim=0) < 0).all()


def test_the_tile_under_a_bright_piece_becomes_bright():
    bright = torch.full((1, 4, WINDOW, WINDOW), -0.5)
    bright[..., :2, 6:] = 3.0  # of the guide's 8x8 latents: upper right

    def denoise(latents, timestep, context):
        if len(latents) == 1:  # the guide is what it is
            scheduler = make_scheduler("ddim", TRAIN, 6)
            return eps_of(bright, latents, scheduler, timestep)
        return pointwise(0.0, 0.3)(latents, timestep, context)

    tiles, _ = joint(replace(PUBLISHED, inner_rate=0.1), denoise=denoise)
    means = decode(tiles).mean((1, 2, 3)).view(SIDE, SIDE)
    assert means.argmax() == 3 and means[0, 3] > 0.3
    assert means[3, 0] < 0


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_the_batch_size_makes_no_difference(batch_size):
    for one, other in zip(joint(batch_size=batch_size), joint(batch_size=8), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_killed_it_goes_on_to_the_same_result(tmp_path):
    whole = joint(checkpoint=Checkpoint(tmp_path / "whole"))
    calls = iter(range(70))

    def dying(*arguments):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return toy_eps(*arguments)

    with pytest.raises(KeyboardInterrupt):
        joint(denoise=dying, checkpoint=Checkpoint(tmp_path / "killed"))
    counted = []
    again = joint(denoise=lambda *a: counted.append(1) or toy_eps(*a), checkpoint=Checkpoint(tmp_path / "killed"))
    assert len(counted) < 6 * (1 + 2 * 21)
    assert all(torch.equal(a, b) for a, b in zip(again, whole, strict=True))


def test_the_published_method_costs_what_the_paper_says():
    """4096 px: 215,080 + 44,652 denoiser calls, 51,220 decodes and 102,400 encodes [method, sec. 4]."""
    counts = {"denoise": 0, "decode": 0, "encode": 0}

    def count(kind, result):
        def call(batch, *_):
            counts[kind] += len(batch)
            return result(batch)

        return call

    def eps(latents, timestep, context):
        counts["denoise"] += len(latents)
        return torch.zeros_like(latents)

    model = SimpleNamespace(
        eps=eps,
        info=ModelInfo("m", embedding_dim=4),
        levels=5,
        tile_px=256,
        window=64,
        linear_decoder=None,
        dtype=torch.float32,
        device=torch.device("cpu"),
        scheduler=TRAIN,
        autoencoder=SimpleNamespace(
            channels=1,
            decode=count("decode", lambda x: torch.zeros(len(x), 3, 16, 16)),
            encode=count("encode", lambda x: torch.zeros(len(x), 1, 64, 64)),
        ),
        context=lambda grids, level=0: torch.zeros(len(grids), 1, 1),
        null_context=lambda: torch.zeros(1, 1, 1),
    )
    sampling = Sampling(steps=20, guidance=3.0, batch_size=128, distilled=False)
    zooming = Zooming("published", seam_steps=0)
    zoom_latents(model, torch.zeros(16, 16, 3), sampling, zooming)
    assert counts == {"denoise": 215_080, "decode": 51_220, "encode": 102_400}
    assert list(count_work(model, 16, sampling, zooming).values()) == list(counts.values())
    zoom_latents(model, torch.zeros(16, 16, 3), sampling, Zooming("published", inner_steps=0))
    assert counts["denoise"] == 215_080 + 20 * 257 * 2 + 44_652
    assert count_work(model, 16, sampling, Zooming("published"))["denoiser_calls"] == 215_080 + 44_652


def test_shrinking_is_antialiased():
    stripes = torch.tensor([-1.0, 1.0]).repeat(16).expand(1, 3, 32, 32)
    assert shrink(stripes, 4)[..., 2:-2, 2:-2].abs().max() < 0.05  # every 4th column alone would be flat -1
    ramp = torch.linspace(-1, 1, 8).expand(1, 3, 8, 8)
    torch.testing.assert_close(shrink(enlarge(ramp, 4), 4), ramp, atol=0.02, rtol=0)
