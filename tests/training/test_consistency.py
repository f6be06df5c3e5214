"""Distillation of a denoiser with a closed form: of Gaussian data, under guidance, into a table of affine maps."""

import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn

from largegen.sampling.schedulers import added_noise, make_scheduler
from largegen.training.consistency import TeacherPath, guidance_loss

SCHEDULE = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.0015, beta_end=0.0195)
MEAN, NULL_MEAN, VARIANCE = torch.tensor([0.5, -0.5, 1.0]), torch.tensor([0.0, 0.5, 1.0]), 2.0
STEPS = 10  # of the teacher's path


def column(values):
    return values.reshape(*values.shape, *(1,) * (4 - values.ndim))


def teacher(scale):
    """The exact noise of N(m, v) under guidance: that of a mean so many times as far from the one without condition."""
    mean = NULL_MEAN + scale[:, None] * (MEAN - NULL_MEAN)

    def eps(noisy, timestep):
        a = column(SCHEDULE.alphas_cumprod[timestep])
        return (noisy - a.sqrt() * column(mean)) * (1 - a).sqrt() / (a * VARIANCE + 1 - a)

    return eps


class Table(nn.Module):
    """For each point of the path a noise that is affine in the latents and in the guidance scale."""

    def __init__(self):
        super().__init__()
        self.slope, self.offset = nn.Parameter(torch.zeros(STEPS, 1)), nn.Parameter(torch.zeros(2, STEPS, 3))

    def under(self, scale):
        def eps(noisy, timestep):
            n = timestep * STEPS // 1000
            offset = self.offset[0, n] + scale[:, None] * self.offset[1, n]
            return noisy + column(self.slope[n]) * noisy + column(offset)

        return eps


def distilled(loss, rounds=300, batch=64):
    torch.manual_seed(0)
    student, past = Table(), Table()
    optimizer = torch.optim.Adam(student.parameters(), 0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, rounds)
    for _ in range(rounds):
        scale = 1 + 3 * torch.rand(batch)
        clean = column(MEAN + VARIANCE**0.5 * torch.randn(batch, 3))
        at = torch.randint(1000, (batch,))
        of_loss = student.under(scale), past.under(scale), teacher(scale), clean, torch.randn_like(clean), at
        optimizer.zero_grad()
        loss(*of_loss).mean().backward()
        optimizer.step()
        schedule.step()
        for old, new in zip(past.parameters(), student.parameters(), strict=True):
            old.data.lerp_(new.data, 0.2)
    return student.requires_grad_(False)


def sampled(predict, name, steps, timesteps=()):
    scheduler, count = make_scheduler(name, SCHEDULE, steps, timesteps), 20_000
    normal = torch.Generator().manual_seed(1)

    def fresh():
        return torch.randn(count, 3, 1, 1, generator=normal)

    x = fresh()

    for t in scheduler.timesteps:
        added = added_noise(scheduler, 0.0, fresh)
        x = scheduler.step(predict(x, t.expand(count)), t, x, **added).prev_sample
    return x.flatten(1)


@pytest.mark.parametrize(("ends", "name", "steps"), [((0,), "lcm", 5), ((0, 1, 3, 6), "ddim", 4)])
def test_few_steps_reach_the_mean_and_covariance_of_the_teachers_many(ends, name, steps):
    path = TeacherPath(SCHEDULE, STEPS, ends)
    student = distilled(path.loss)
    for scale in (1.0, 2.5):
        scales = torch.full((20_000,), scale)
        found = sampled(student.under(scales), name, steps, path.timesteps if name == "ddim" else ())
        many = sampled(teacher(scales), "ddim", STEPS)
        assert (found.mean(0) - many.mean(0)).abs().max() < 0.1
        assert (found.T.cov() - many.T.cov()).abs().max() < 0.1 * VARIANCE
        assert (found.mean(0) - (NULL_MEAN + scale * (MEAN - NULL_MEAN))).abs().max() < 0.2


def test_guidance_in_one_call_is_the_teachers_under_guidance():
    def loss(student, past, guided, clean, noise, at):
        return guidance_loss(SCHEDULE, student, guided, clean, noise, at // 100 * 100 + 99)

    student = distilled(loss)
    scale, noisy = torch.tensor([1.0, 2.0, 4.0]), torch.randn(3, 3, 1, 1)
    for at in (99, 499, 999):
        timestep = torch.full((3,), at)
        difference = student.under(scale)(noisy, timestep) - teacher(scale)(noisy, timestep)
        assert difference.abs().max() < 0.15


def test_the_teachers_own_end_has_no_loss():
    path = TeacherPath(SCHEDULE, STEPS, (0, 5))
    scale, clean, noise = torch.ones(8), torch.randn(8, 3, 1, 1), torch.randn(8, 3, 1, 1)
    at = torch.arange(8) * 125
    start, noisy, end = path.point(clean, noise, at)
    assert start.tolist() == [99, 199, 299, 399, 599, 699, 799, 899] and end.tolist() == [-1] * 4 + [499] * 4
    arrived = path.follow(teacher(scale), noisy, start, end)
    again = path.follow(teacher(scale), arrived, end, end)
    assert torch.equal(arrived, again)

    def to_the_end(x, t):  # the noise that DDIM needs to go there at once
        there = path.follow(teacher(scale), x, t, end)
        kept = torch.cat([SCHEDULE.alphas_cumprod, torch.ones(1)])
        a, b = column(kept[t]), column(kept[end])
        part = (b / a).sqrt()
        return (there - part * x) / ((1 - b).sqrt() - part * (1 - a).sqrt())

    losses = path.loss(to_the_end, to_the_end, teacher(scale), clean, noise, at)
    assert losses.max() < 1e-5
    assert path.loss(teacher(scale), teacher(scale), teacher(scale), clean, noise, at).mean() > 100 * losses.mean()


def test_a_shift_of_colour_counts_more_and_errors_count_as_in_the_clean_latents():
    path = TeacherPath(SCHEDULE, STEPS, (0, 5))
    scale, clean, noise = torch.ones(8), torch.randn(8, 3, 2, 2), torch.randn(8, 3, 2, 2)
    signs = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])

    def arriving(error):  # where the teacher's next step leads, but for an error of the clean latents
        def eps(noisy, timestep):
            a = column(SCHEDULE.alphas_cumprod[timestep])
            return teacher(scale)(noisy, timestep) - (a / (1 - a)).sqrt() * error

        return eps

    def loss(error, at):
        student = arriving(error)
        return path.loss(student, teacher(scale), teacher(scale), clean, noise, torch.full((8,), at)).mean()

    assert loss(torch.ones(2, 2), 150) > 2 * loss(signs, 150)
    assert loss(torch.ones(2, 2), 950) > 0.5 * loss(torch.ones(2, 2), 150)  # in noisy latents the error is a seventh
