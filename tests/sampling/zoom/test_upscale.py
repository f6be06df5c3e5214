"""An image enlarged under itself: its size, what it looks like from afar, and what it does not depend on."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers.models import WIDTH, few_steps
from helpers.slides import tissue_like

import largegen
from largegen.errors import InputError, ModelError
from largegen.sampling.resume import Checkpoint
from largegen.sampling.settings import Inversion, Zooming
from largegen.sampling.zoom.consistency import CHUNK, MARGIN, hold_to_guide
from largegen.sampling.zoom.downsample import guide_psnr
from largegen.sampling.zoom.enlargement import Enlargement, find_embeddings, first_embeddings
from largegen.sampling.zoom.upscale import count_upscaling, upscale_latents

QUICK = {"steps": 2, "guidance": 2.0, "invert_steps": 2}


@pytest.fixture(scope="module")
def image():
    return tissue_like(700, 500, 0)[200:270, 300:400].copy()  # 70 x 100 px


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_it_is_larger_and_from_afar_the_same(zoom_model, image, factor):
    part = image[:33, :20] if factor == 8 else image[:50, :40]
    large = largegen.upscale(zoom_model, part, factor, **QUICK)
    assert large.shape == (part.shape[0] * factor, part.shape[1] * factor, 3) and large.dtype == np.uint8
    assert guide_psnr(part, large) > 25  # of noise that leaves the range of colours: images come nearer


def test_the_published_way_and_from_noise(zoom_model, image):
    inner = {"method": "published", "inner_steps": 1, "seam_steps": 2}
    large = largegen.upscale(zoom_model, image[:30, :30], 2, start="noise", **inner, **QUICK)
    assert large.shape == (60, 60, 3) and guide_psnr(image[:30, :30], large) > 25


def test_a_dry_run_counts_the_published_ways_calls(zoom_model, image):
    work = Enlargement(zoom_model, image[:30, :30], 2)
    zooming = Zooming("published", inner_steps=1, seam_steps=1)
    sampling, calls, eps = few_steps(zoom_model, steps=1), [], zoom_model.eps
    zoom_model.eps = lambda latents, *rest: calls.append(len(latents)) or eps(latents, *rest)
    upscale_latents(work, torch.randn(*work.tiles, WIDTH), sampling, zooming)
    del zoom_model.eps
    assert count_upscaling(work, sampling, zooming, Inversion())["denoiser_calls"] == sum(calls)


def test_embeddings_do_not_depend_on_the_batch_or_on_a_kill(zoom_model, image, tmp_path):
    work, inversion = Enlargement(zoom_model, image, 4), Inversion(invert_steps=3)
    start = first_embeddings(work, None, 0)
    assert start.shape == (5, 7, WIDTH) and len(work.patches) == 6

    def found(batch_size, **options):
        return find_embeddings(work, start, inversion, few_steps(zoom_model, batch_size=batch_size), **options)[0]

    whole = found(4)
    torch.testing.assert_close(found(2), whole, atol=1e-4, rtol=1e-3)
    calls, under = iter(range(4)), zoom_model.eps_under

    def dying(*arguments):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return under(*arguments)

    zoom_model.eps_under = dying
    with pytest.raises(KeyboardInterrupt):
        found(4, checkpoint=Checkpoint(tmp_path / "a"))
    steps = []
    zoom_model.eps_under = lambda *arguments: steps.append(1) or under(*arguments)
    again = found(4, checkpoint=Checkpoint(tmp_path / "a"))
    del zoom_model.eps_under
    assert torch.equal(again, whole) and len(steps) == 3  # the second of two batches


def test_held_in_bands_as_at_once():
    generator = np.random.default_rng(0)
    guide = generator.integers(60, 200, (CHUNK + MARGIN + 9, 20, 3), dtype=np.uint8)
    image = generator.integers(0, 256, (len(guide) * 4, 80, 3), dtype=np.uint8)
    edges = [0, 3, 50, 51, 200, len(image)]
    bands = [(top, image[top:bottom]) for top, bottom in pairwise(edges)]
    held = list(hold_to_guide(bands, guide, 4))
    assert [y for y, _ in held] == [0, CHUNK * 4]
    whole = np.concatenate([band for _, band in held])
    [(_, at_once)] = hold_to_guide([(0, image[: CHUNK * 4])], guide[:CHUNK], 4)
    assert np.abs(whole[: (CHUNK - MARGIN) * 4].astype(int) - at_once[: (CHUNK - MARGIN) * 4]).max() <= 1
    assert guide_psnr(guide, image) < 18 and guide_psnr(guide, whole) > 30


def test_what_cannot_be(zoom_model, model, image):
    with pytest.raises(ModelError, match="knows one magnification only"):
        largegen.upscale(model, image)
    with pytest.raises(InputError, match="`factor` 16: model tiny enlarges by 2, 4, 8"):
        largegen.upscale(zoom_model, image, 16)
    with pytest.raises(InputError, match="must be uint8"):
        largegen.upscale(zoom_model, image[..., 0])
    with pytest.raises(InputError, match="only with `method` published"):
        largegen.upscale(zoom_model, image, 4, inner_steps=7)
