"""Images under a guide, fast and as published: agreement with the guide, seeds, resuming, sizes."""

import copy
from dataclasses import replace

import pytest
import torch
from helpers.models import WIDTH, few_steps, random_features

from largegen.errors import InputError
from largegen.models.linear_decoder import fit_linear_decoder
from largegen.sampling.generate import sample_latents
from largegen.sampling.resume import Checkpoint
from largegen.sampling.settings import Zooming
from largegen.sampling.zoom.guide import guide_image
from largegen.sampling.zoom.zoom import level_of, zoom_latents


@pytest.fixture
def model(zoom_model):
    return zoom_model


def test_the_fast_method_agrees_with_its_guide(model):
    linear = copy.deepcopy(model)
    linear.autoencoder.vae.trunk.decoder.conv_out.requires_grad_(False).weight.zero_()
    linear.linear_decoder = fit_linear_decoder(linear.autoencoder.decode, torch.randn(16, 4, 8, 8))
    guide, canvas = zoom_latents(linear, random_features(), few_steps(linear), Zooming())
    free = sample_latents(linear, random_features(), 256, 256, few_steps(linear))

    def disagreement(latents):
        seen = torch.nn.functional.avg_pool2d(linear.autoencoder.decode(latents), 4)
        return (seen - guide_image(linear, guide)).square().mean().item()

    assert disagreement(canvas) < 0.1 * disagreement(free)


@pytest.mark.parametrize("method", ["fast", "published"])
def test_the_same_seed_gives_the_same_for_every_batch_size(model, method):
    # Without inner steps: scaled to 1, the random networks' tiny responses would be rounding alone.
    zooming = Zooming(method, inner_steps=0, seam_steps=2) if method == "published" else Zooming()
    one, other, seeded = (
        zoom_latents(model, random_features(), few_steps(model, batch_size=batch, seed=seed), zooming)
        for batch, seed in ((3, 0), (16, 0), (16, 1))
    )
    for a, b, c in zip(one, other, seeded, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)
        assert (b - c).abs().max() > 0.1


# Killed in the draft or the image under its guide; early in the joint sampling, or in the pass against seams.
@pytest.mark.parametrize(("method", "left"), [("fast", 8), ("fast", -3), ("published", 20), ("published", 35)])
def test_killed_it_goes_on_to_the_same_result(model, method, left, tmp_path, monkeypatch):
    zooming = Zooming(method, inner_steps=1, seam_steps=2) if method == "published" else Zooming()
    checkpoint = Checkpoint(tmp_path / "whole", "a", save_every_s=0.0)
    resumed = replace(checkpoint, path=tmp_path / "killed")
    eps, calls = model.eps, []

    def counting(*arguments):
        calls.append(1)
        if len(calls) == left + 1 and dying:
            raise KeyboardInterrupt
        return eps(*arguments)

    monkeypatch.setattr(model, "eps", counting)
    dying = False
    whole = zoom_latents(model, random_features(), few_steps(model), zooming, checkpoint=checkpoint)
    all_calls, dying = len(calls), True
    left %= all_calls
    calls.clear()
    assert left < all_calls
    with pytest.raises(KeyboardInterrupt):
        zoom_latents(model, random_features(), few_steps(model), zooming, checkpoint=resumed)
    assert list(tmp_path.glob("killed*"))
    dying = False
    calls.clear()
    again = zoom_latents(model, random_features(), few_steps(model), zooming, checkpoint=resumed)
    assert len(calls) <= all_calls - 4
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    other = few_steps(model, seed=1)
    calls.clear()
    zoom_latents(model, random_features(), other, zooming, checkpoint=resumed)
    assert len(calls) == all_calls  # another seed starts over


def test_the_pass_against_seams_can_be_switched_off(model):
    plain, passed = (
        zoom_latents(model, random_features(2), few_steps(model), Zooming("published", 1, seam_steps=steps))[1]
        for steps in (0, 2)
    )
    assert 0.01 < (plain - passed).abs().mean() < (plain - plain.flip(-1)).abs().mean()


def test_each_level_has_its_own_size(model):
    assert [level_of(model, (size, size)) for size in (128, 256, 512)] == [1, 2, 3]


def test_a_grid_that_no_level_fits(model):
    with pytest.raises(InputError, match="square"):
        zoom_latents(model, torch.randn(4, 3, WIDTH), few_steps(model), Zooming())
