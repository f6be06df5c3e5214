"""Few steps with a distilled denoiser: of data whose exact consistency function is known, mean and covariance come out.

A consistency function takes noisy latents to where the path without noise (the probability flow) leads them.
"""

from dataclasses import replace

import pytest
import torch
from helpers.denoisers import ALPHA_BAR, NULL, TRAIN, mixing, no_contexts, pixels, run, unpixels

from largegen.errors import InputError
from largegen.sampling.canvas import _settings, sample_canvas
from largegen.sampling.denoise import guided
from largegen.sampling.noise import noise
from largegen.sampling.plan import plan_canvas
from largegen.sampling.rows import in_memory
from largegen.sampling.schedulers import added_noise, make_scheduler
from largegen.sampling.settings import Sampling


class Distilled:
    """A distilled denoiser: `clean(latents, a, scale)` is its consistency function, for a cumulative alpha a."""

    def __init__(self, clean):
        self.clean = clean

    def under(self, scale):
        if scale > 4:
            raise InputError(f"`guidance` {scale}")

        def eps(latents, timestep, contexts):
            a = ALPHA_BAR[timestep]
            return (latents - a.sqrt() * self.clean(latents, a, scale)) / (1 - a).sqrt()

        return eps


def gaussian(mean, null_mean, covariance):
    """Of N(mean, S) at every latent; guided, the mean lies so many times as far from that without a condition."""
    values, vectors = torch.linalg.eigh(covariance)

    def clean(latents, a, scale):
        m = null_mean + scale * (mean - null_mean)
        along = (pixels(latents) - a.sqrt() * m) @ vectors * (values / (a * values + 1 - a)).sqrt()
        return unpixels(m + along @ vectors.T, latents.shape)

    return Distilled(clean)


def mixture(means, variance):
    """Of a mixture with equal parts at every latent: in one dimension the path keeps the quantile of a value."""
    grid = torch.linspace(-12, 12, 4001, dtype=torch.float64)

    def quantiles(a):
        spread = (a * variance + 1 - a).double().sqrt()
        return torch.stack([torch.special.ndtr((grid - a.sqrt() * m) / spread) for m in means]).mean(0)

    at_the_end = quantiles(torch.tensor(1.0))

    def lookup(x, xs, ys):
        i = torch.searchsorted(xs, x).clamp(1, len(xs) - 1)
        part = ((x - xs[i - 1]) / (xs[i] - xs[i - 1]).clamp(min=1e-300)).clamp(0, 1)
        return ys[i - 1] + part * (ys[i] - ys[i - 1])

    def clean(latents, a, scale):
        now = lookup(latents.double().flatten(), grid, quantiles(a))
        return lookup(now, at_the_end, grid).reshape(latents.shape).float()

    return Distilled(clean)


@pytest.mark.parametrize("windows", ["overlap", "shift"])
@pytest.mark.parametrize("steps", [1, 4])
def test_mean_and_covariance_of_gaussian_data_under_guidance(steps, windows):
    mean, null_mean = torch.tensor([0.5, -0.5, 1.0, 0.0]), torch.tensor([0.0, 0.5, 1.0, 1.0])
    root = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    covariance = root @ root.T + torch.eye(4)
    denoise = gaussian(mean, null_mean, covariance)
    options = {"window": 8, "windows": windows, "stride": 6, "guidance": 2.5, "batch_size": 64, "distilled": True}
    samples = pixels(run(denoise, no_contexts, "lcm", steps, (4, 64, 64), **options))
    n, variance = len(samples), covariance.diag()
    error = ((variance[:, None] * variance + covariance**2) / n).sqrt()  # of a sample covariance
    tolerance = 4 * error + 0.01 * (variance[:, None] * variance).sqrt()
    guided_mean = null_mean + 2.5 * (mean - null_mean)
    assert ((samples.mean(0) - guided_mean).abs() < 4 * (variance / n).sqrt() + 0.02).all()
    assert ((samples.T.cov() - covariance).abs() < tolerance).all()


@pytest.mark.parametrize("steps", [2, 4])
def test_moments_and_modes_of_a_mixture(steps):
    means, variance = (-2.0, 1.0, 3.0), torch.tensor(0.09)
    samples = run(mixture(means, variance), no_contexts, "lcm", steps, (4, 64, 64), windows="shift", guidance=1)
    n, m = samples.numel(), torch.tensor(means)
    assert abs(samples.mean() - m.mean()) < 4 * (m.var(unbiased=False) / n) ** 0.5 + 0.02
    assert samples.var().item() == pytest.approx((m.var(unbiased=False) + variance).item(), rel=0.03)
    nearest = (samples.flatten()[:, None] - m).abs().argmin(1)
    assert (nearest.bincount() / n - 1 / 3).abs().max() < 0.02
    assert all(samples.flatten()[nearest == i].std().item() == pytest.approx(0.3, rel=0.1) for i in range(3))


def test_one_window_equals_diffusers_with_the_noise_of_its_place():
    found = run(condition_at=no_contexts, name="lcm", steps=4, shape=(3, 16, 16), guidance=1, seed=3)
    scheduler = make_scheduler("lcm", TRAIN, 4)
    assert scheduler.timesteps.tolist() == [999, 759, 499, 259]
    x = noise(3, -1, 0, 0, 16, 16, 3)
    for step, t in enumerate(scheduler.timesteps):
        eps = mixing(x, t, no_contexts([(0, 0)]))
        torch.manual_seed(step)
        theirs = type(scheduler).__base__.step(scheduler, eps, t, x)
        added = added_noise(scheduler, 0.0, lambda step=step: noise(3, step, 0, 0, 16, 16, 3))
        ours = scheduler.step(eps, t, x, **added)
        torch.testing.assert_close(ours.denoised, theirs.denoised, atol=1e-4, rtol=1e-4)
        x = ours.prev_sample
    assert torch.equal(found, x)


def test_a_distilled_denoiser_is_called_once_and_needs_no_null_condition():
    calls = []

    class Counting:
        def under(self, scale):
            return lambda latents, timestep, contexts: calls.append((len(latents), scale)) or latents

    sampling = Sampling(steps=2, scheduler="lcm", guidance=3.0, windows="overlap", stride=16, batch_size=4)
    canvas = sample_canvas(Counting(), no_contexts, TRAIN, (3, 32, 32), sampling, window=16)
    assert in_memory(canvas).shape == (1, 3, 32, 32) and calls == [(4, 3.0)] * 2
    with pytest.raises(InputError, match="`guidance` 5"):
        guided(Distilled(None), NULL, 5.0)


def test_overlapping_windows_of_students_rise_from_their_borders():
    settings = Sampling(steps=4, windows="overlap", stride=6)
    plan, thin = (plan_canvas((3, *shape), settings, 8) for shape in ((20, 20), (20, 8)))
    ramp = torch.tensor([0.25, 0.75, 1, 1, 1, 1, 0.75, 0.25])
    assert torch.equal(plan.weight(0), ramp[:, None] * ramp)
    assert torch.equal(plan.weight(0)[6:] + plan.weight(0)[:2], ramp.expand(2, 8))  # they add up to one
    assert torch.equal(thin.weight(3), ramp[:, None].expand(8, 8))  # without neighbours to the left and right
    own = plan_canvas((3, 20, 20), replace(settings, distilled=False), 8)
    assert torch.equal(own.weight(0), torch.ones(8, 8))


def test_more_steps_than_the_path_has_are_refused():
    with pytest.raises(InputError, match="`steps` 51"):
        make_scheduler("lcm", TRAIN, 51)


def test_a_canvas_that_the_teacher_began_is_not_the_students():
    both = (Sampling(steps=3, scheduler="ddim", batch_size=1, distilled=distilled) for distilled in (True, False))
    one, other = (_settings(plan_canvas((4, 8, 8), s, 8), s, 8, make_scheduler("ddim", TRAIN, 3), 0) for s in both)
    assert one != other
