"""The large-image sampler, held against closed forms and plain diffusers."""

import pytest
import torch
from diffusers import DDPMScheduler
from helpers.denoisers import (
    ALPHA_BAR,
    TRAIN,
    mixing,
    no_contexts,
    place_contexts,
    pointwise,
    run,
)

from largegen.errors import InputError, LargegenError, ModelError
from largegen.sampling.denoise import WindowBatches, guided
from largegen.sampling.noise import noise
from largegen.sampling.plan import plan_canvas
from largegen.sampling.rows import CANVAS, MemoryRows
from largegen.sampling.schedulers import RowScheduler, make_scheduler
from largegen.sampling.settings import Sampling
from largegen.sampling.strips import Strips
from largegen.sampling.walk import CanvasWalk

NAMES = ["ddim", "dpm++", "unipc"]


@pytest.mark.parametrize("name", NAMES)
def test_timesteps_are_the_published_ones(name):
    timesteps = make_scheduler(name, TRAIN, 50).timesteps
    assert timesteps.tolist() == list(range(999, 0, -20))


@pytest.mark.parametrize("name", NAMES)
def test_step_counts_that_diffusers_cannot_space_are_refused(name):
    for steps in (0, -1, 61, 1001):
        with pytest.raises(InputError, match="`steps`"):
            make_scheduler(name, TRAIN, steps)


def test_unknown_scheduler_and_prediction_are_refused():
    with pytest.raises(InputError, match="ddim"):
        make_scheduler("euler", TRAIN, 10)
    with pytest.raises(ModelError, match="v_prediction"):
        make_scheduler("ddim", DDPMScheduler(prediction_type="flow_prediction"), 10)


@pytest.mark.parametrize("eta", [0, 0.5])
@pytest.mark.parametrize("windows", ["overlap", "shift"])
@pytest.mark.parametrize("name", NAMES)
def test_one_window_equals_plain_diffusers_bit_for_bit(name, windows, eta):
    if eta and name != "ddim":
        with pytest.raises(InputError, match="`eta`"):
            run(name=name, eta=eta)
        return
    found = run(name=name, shape=(3, 16, 16), windows=windows, guidance=1, eta=eta, seed=3)
    scheduler = make_scheduler(name, TRAIN, 5)
    x = noise(3, -1, 0, 0, 16, 16, 3)
    for step, t in enumerate(scheduler.timesteps):
        added = {"eta": eta, "variance_noise": noise(3, step, 0, 0, 16, 16, 3)} if eta else {}
        x = scheduler.step(mixing(x, t, place_contexts([(0, 0)])), t, x, **added).prev_sample
    assert torch.equal(found, x)


def test_averaging_eps_is_averaging_x0():
    """One step from t to 0: the canvas is the mean over windows of each window's own predicted x0."""
    x = noise(0, -1, 0, 0, 24, 16, 3)
    t = torch.tensor(999)
    a = ALPHA_BAR[t]
    total, count = torch.zeros_like(x), torch.zeros(24, 1)
    for top in (0, 8):
        window = x[:, :, top : top + 16]
        eps = mixing(window, t, place_contexts([(top, 0)]))
        total[:, :, top : top + 16] += (window - (1 - a).sqrt() * eps) / a.sqrt()
        count[top : top + 16] += 1
    found = run(steps=1, shape=(3, 24, 16), guidance=1)
    torch.testing.assert_close(found, total / count, rtol=1e-4, atol=1e-4)


def test_guidance_follows_the_usual_convention_in_one_batch():
    calls = []

    def denoise(latents, timestep, contexts):
        calls.append(len(latents))
        return latents * 0 + contexts.mean((1, 2))[:, None, None, None]

    latents, contexts, null = torch.randn(3, 3, 8, 8), torch.full((3, 1, 2), 2.0), torch.full((1, 1, 2), 0.5)
    for scale, eps, batch in [(4.0, 0.5 + 4 * 1.5, 6), (1.0, 2.0, 3), (0.0, 0.5, 3)]:
        calls.clear()
        found = guided(denoise, null, scale)(latents, torch.tensor(5), contexts)
        torch.testing.assert_close(found, torch.full_like(latents, eps))
        assert calls == [batch]


def test_guidance_without_a_null_condition_is_refused():
    with pytest.raises(InputError, match="null"):
        run(null=None)


@pytest.mark.parametrize("windows", ["overlap", "shift"])
def test_same_image_for_every_batch_size(windows):
    one = run(windows=windows, batch_size=1, eta=0.3)
    for batch_size in (2, 5, 100):
        torch.testing.assert_close(run(windows=windows, batch_size=batch_size, eta=0.3), one, rtol=1e-5, atol=1e-5)


def test_seed_latents_and_origin_choose_the_image():
    one = run()
    assert torch.equal(run(), one)
    assert not torch.allclose(run(seed=1), one)
    start = noise(0, -1, 0, 0, 40, 28, 3)
    before = start.clone()
    assert torch.equal(run(latents=start, seed=9), one)
    assert torch.equal(start, before)
    with pytest.raises(InputError, match="shape"):
        run(latents=start[..., 1:])


@pytest.mark.parametrize("windows", ["overlap", "shift"])
def test_a_piece_of_a_larger_canvas_done_by_itself(windows):
    """Where each latent is denoised by itself, a piece with the same noise is the crop of the whole."""
    whole = run(pointwise(0.2, 0.5), no_contexts, shape=(3, 48, 40), guidance=1, eta=0.5, windows=windows)
    piece = run(
        pointwise(0.2, 0.5),
        no_contexts,
        shape=(3, 20, 24),
        guidance=1,
        eta=0.5,
        windows=windows,
        origin=(11, 5),
    )
    torch.testing.assert_close(piece, whole[..., 11:31, 5:29], rtol=1e-5, atol=1e-5)


def test_the_last_steps_alone_go_on_from_noisy_latents():
    scheduler = make_scheduler("ddim", TRAIN, 5)
    states, options = [], {"shape": (3, 16, 16), "guidance": 1.0}

    def watching(latents, timestep, contexts):
        states.append(int(timestep))
        return mixing(latents, timestep, contexts)

    whole = run(**options)
    x = noise(0, -1, 0, 0, 16, 16, 3)
    for t in scheduler.timesteps[:3]:
        x = scheduler.step(mixing(x, t, place_contexts([(0, 0)])), t, x).prev_sample
    rest = run(watching, latents=x, last_steps=2, **options)
    assert states == scheduler.timesteps[3:].tolist()
    torch.testing.assert_close(rest, whole, atol=1e-5, rtol=1e-5)
    for wrong in ({"last_steps": 0}, {"last_steps": 6}, {"last_steps": 2, "windows": "shift"}):
        with pytest.raises(InputError, match="last_steps"):
            run(**options | wrong)


def test_what_is_corrected_is_the_clean_canvas():
    target = noise(5, -1, 0, 0, 24, 40, 3)
    for windows in ("overlap", "shift"):
        found = run(shape=(3, 24, 40), windows=windows, correct=lambda clean: clean * 0 + target)
        torch.testing.assert_close(found, target, atol=1e-4, rtol=1e-4)


def test_contexts_are_computed_once_per_overlapping_window():
    asked = []

    def condition_at(places):
        asked.extend(places)
        return place_contexts(places)

    run(condition_at=condition_at, steps=5, batch_size=3)
    assert len(asked) == len(set(asked)) > 3


@pytest.mark.parametrize("name", [*NAMES, "lcm"])
@pytest.mark.parametrize("windows", ["overlap", "shift"])
def test_background_windows_are_skipped_and_end_at_the_background_latent(windows, name):
    skip = torch.zeros(48, 64, dtype=torch.bool)
    skip[:, 20:] = True
    seen = []

    def condition_at(places):
        seen.extend(places)
        return no_contexts(places)

    glass = torch.tensor([0.5, -1.0, 2.0])
    found = run(
        pointwise(0.0, 1.0),
        condition_at,
        name,
        shape=(3, 48, 64),
        windows=windows,
        guidance=1,
        skip=skip,
        skip_latent=glass,
    )
    assert seen
    assert max(left for _, left in seen) < 20
    torch.testing.assert_close(found[0, :, :, 40:], glass[:, None, None].expand(3, 48, 24), rtol=1e-3, atol=1e-3)
    whole = run(pointwise(0.0, 1.0), no_contexts, name, shape=(3, 48, 64), windows=windows, guidance=1)
    torch.testing.assert_close(found[..., :20], whole[..., :20], rtol=1e-4, atol=1e-4)


def test_a_canvas_of_background_only_needs_no_denoiser():
    def denoise(*_):
        raise AssertionError("called")

    found = run(denoise, shape=(3, 32, 32), skip=torch.ones(32, 32, dtype=torch.bool))
    assert found.abs().max() < 1e-3


@pytest.mark.parametrize("option", [{"windows": "spiral"}, {"stride": 17}, {"batch_size": 0}, {"eta": -0.1}])
def test_settings_that_make_no_sense_are_refused(option):
    with pytest.raises(InputError):
        run(**option)


def test_the_walk_has_its_canvas_after_every_step():
    plan = plan_canvas((3, 40, 28), Sampling(steps=4, windows="overlap", stride=8, distilled=False), 16)

    def walk(canvas, first):
        rows, strips = MemoryRows((0, 40)), Strips(plan, batch_size=8)
        rows.write(CANVAS, 0, canvas)
        rows.turn()
        predict, scheduler = WindowBatches(mixing, place_contexts), RowScheduler(make_scheduler("ddim", TRAIN, 4))
        steps = CanvasWalk(predict, scheduler, strips, rows)
        for step in range(first, 4):
            steps.step(step)
            yield rows.read(CANVAS, 0, 40)

    canvases = list(walk(plan.noise(-1)[0], 0))
    assert torch.equal(canvases[-1][None], run(steps=4, guidance=1.0))
    assert torch.equal(next(walk(canvases[1], 2)), canvases[2])  # from any of them


def test_nan_is_an_error_and_not_an_image(tmp_path):
    with pytest.raises(LargegenError, match=r"step 1 of 5.*NaN"):
        run(lambda latents, t, c: latents * float("nan"), checkpoint=tmp_path / "run.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_the_last_windows_are_blended():
    """Windows that disagree leave no edge where they meet, for there is no later step to hide it."""
    window, values = 16, torch.Generator().manual_seed(0)

    def disagreeing(latents, timestep, contexts):
        return (2 * torch.randint(2, (len(latents), 1, 1, 1), generator=values) - 1.0).expand_as(latents)

    canvas = run(
        disagreeing,
        no_contexts,
        steps=1,
        shape=(1, 64, 48),
        window=window,
        windows="shift",
        guidance=1,
        latents=torch.zeros(1, 1, 64, 48),
    )
    spread = canvas.max() - canvas.min()
    for dim in (-1, -2):
        assert canvas.diff(dim=dim).abs().max() < 0.25 * spread  # side by side it is all of it
