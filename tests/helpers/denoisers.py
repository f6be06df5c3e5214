"""Denoisers in miniature, some with a closed form, and a canvas sampled with them."""

from dataclasses import fields

import torch
from diffusers import DDPMScheduler

from largegen.sampling.canvas import sample_canvas
from largegen.sampling.resume import Checkpoint
from largegen.sampling.rows import in_memory
from largegen.sampling.settings import Sampling
from largegen.sampling.walk import Background

TRAIN = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.0015, beta_end=0.0195)
ALPHA_BAR = TRAIN.alphas_cumprod


def gaussian(mean, covariance, split, join):
    """The exact eps where every row of `split`, (N, 4), is N(mean, covariance) by itself; `join` puts them together.

    x_t = sqrt(a) x0 + sqrt(1 - a) eps, so E[eps | x_t] = sqrt(1 - a) (a S + (1 - a) I)^-1 (x_t - sqrt(a) m).
    """

    def eps(latents, timestep, contexts):
        a = ALPHA_BAR[timestep]
        inverse = torch.linalg.inv(a * covariance + (1 - a) * torch.eye(4))
        return join((split(latents) - a.sqrt() * mean) @ inverse * (1 - a).sqrt(), latents.shape)

    return eps


def blocks(latents):  # (B, C, H, W) => (N, 4), the 2x2 blocks
    b, c, h, w = latents.shape
    return latents.view(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 2, 4, 3, 5).reshape(-1, 4)


def unblocks(values, shape):
    b, c, h, w = shape
    return values.view(b, c, h // 2, w // 2, 2, 2).permute(0, 1, 2, 4, 3, 5).reshape(shape)


def pixels(latents):  # (B, 4, H, W) => (N, 4), the channels at one latent
    return latents.permute(0, 2, 3, 1).reshape(-1, 4)


def unpixels(values, shape):
    b, c, h, w = shape
    return values.view(b, h, w, c).permute(0, 3, 1, 2)


def pointwise(mean, variance):
    """The exact eps where every latent is N(mean, variance) by itself, so that windows may lie anywhere."""

    def eps(latents, timestep, contexts):
        a = ALPHA_BAR[timestep]
        return (1 - a).sqrt() * (latents - a.sqrt() * mean) / (a * variance + 1 - a)

    return eps


def mixing(latents, timestep, contexts):
    """A network in miniature: each eps depends on its whole window, on its context and on the timestep."""
    mean = latents.mean((1, 2, 3), keepdim=True)
    context = contexts.mean((1, 2))[:, None, None, None]
    return torch.tanh(latents + latents.roll(1, -1) * 0.5 + mean) * 0.8 + context * (timestep + 1) / 1000


def no_contexts(places):
    return torch.zeros(len(places), 1, 1)


def place_contexts(places):
    return torch.tensor(places, dtype=torch.float32)[:, None] / 100


NULL = torch.full((1, 1, 2), -0.1)


def run(denoise=mixing, condition_at=place_contexts, name="ddim", steps=5, shape=(3, 40, 28), **options):
    """Sample a canvas; options: fields of Sampling and of Checkpoint (`checkpoint`: its path), or of `sample_canvas`.

    skip, skip_latent: mask and latent of a Background. stride: a quarter of a window for None.
    """
    options = {
        "window": 16,
        "windows": "overlap",
        "stride": 8,
        "batch_size": 8,
        "null": NULL,
        "guidance": 2.0,
    } | options
    if options["stride"] is None:
        options["stride"] = options["window"] // 4
    if options["windows"] == "shift":
        options["stride"] = 0
    skip, latent = options.pop("skip", None), options.pop("skip_latent", None)
    if skip is not None:
        options["background"] = Background(skip.numpy(), latent)
    if "checkpoint" in options:
        options["path"] = options.pop("checkpoint")
        options["checkpoint"] = Checkpoint(**_taken(options, Checkpoint))
    sampling = Sampling(steps=steps, scheduler=name, **{"distilled": False} | _taken(options, Sampling))
    return in_memory(sample_canvas(denoise, condition_at, TRAIN, shape, sampling, **options))


def _taken(options, kind):
    """Take the fields of a dataclass out of options."""
    return {field.name: options.pop(field.name) for field in fields(kind) if field.name in options}


class Killed(Exception):
    pass


def kill_at(call):
    calls = iter(range(10**6))

    def denoise(latents, timestep, contexts):
        if next(calls) == call:
            raise Killed
        return mixing(latents, timestep, contexts)

    return denoise
