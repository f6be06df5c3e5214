"""Tokens of single patches from a CDM, by DDIM without noise [Z]."""

import json
import logging
from dataclasses import replace

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor
from tqdm import tqdm

from largegen.embeddings.grid import EmbeddingGrid, SourceInfo
from largegen.errors import InputError
from largegen.models.model import Model
from largegen.models.token_prior import SCHEDULE, TokenPrior
from largegen.sampling.noise import TOKENS, noise
from largegen.sampling.settings import Sampling

log = logging.getLogger(__name__)

STEPS = 200  # [Z]
GUIDANCE = 1.75  # of the denoiser under such tokens [Z]
BATCH = 16
NAME = "imagined"  # of what patches are of


def sample_tokens(prior: TokenPrior, level: int, count: int, seed: int, progress: bool = False) -> Tensor:
    """Sample the context tokens of patches; those of patch n are the same however many there are.

    Args:
        prior: The CDM.
        level: Magnification level of the patches.
        count: Number of patches.
        seed: Of the noise.
        progress: Show a progress bar.

    Returns:
        (count, T, C) float32, on the prior's device.

    Raises:
        InputError: For a level that the CDM does not know.
    """
    if not 0 <= level < prior.config.levels:
        raise InputError(f"`level` {level}: the CDM has levels 0 to {prior.config.levels - 1}")
    shape = prior.config.tokens, prior.config.token_dim
    field = noise(seed, TOKENS, 0, 0, 1, count, shape[0] * shape[1])[0, :, 0].T.reshape(count, *shape)
    levels = torch.full((count,), level)
    parts = zip(field.to(prior.device).split(BATCH), levels.to(prior.device).split(BATCH), strict=True)
    return torch.cat([ddim(prior, noisy, own, progress=progress) for noisy, own in parts])


@torch.inference_mode()
def ddim(prior: TokenPrior, noisy: Tensor, levels: Tensor, steps: int = STEPS, progress: bool = False) -> Tensor:
    """Walk from noise (B, T, C) to tokens (B, T, C): DDIM, eta 0 (Song et al. 2021), nothing is clipped.

    The steps are spaced over all timesteps, ends included, and rounded; each leads to the next one exactly, which
    diffusers' scheduler does only where they divide evenly.
    """
    scheduler = DDIMScheduler.from_config(SCHEDULE.config)
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps.tolist()
    kept = [float(scheduler.alphas_cumprod[timestep]) for timestep in timesteps] + [1.0]
    for number, timestep in enumerate(tqdm(timesteps, desc="tokens", disable=None if progress else True)):
        clean, _ = prior(noisy, torch.full_like(levels, timestep), levels)
        eps = (noisy - kept[number] ** 0.5 * clean) / (1 - kept[number]) ** 0.5
        noisy = kept[number + 1] ** 0.5 * clean + (1 - kept[number + 1]) ** 0.5 * eps
    return noisy


def under_tokens(sampling: Sampling) -> Sampling:
    """Take the published guidance, and say so."""
    log.info("guidance %s, as published under a CDM's tokens", GUIDANCE)
    return replace(sampling, guidance=GUIDANCE)


def no_grid(model: Model, seed: int) -> EmbeddingGrid:
    """Return what stands for a reference where patches are of a CDM: one empty tile, which says what made them."""
    info = model.info
    made_by = {"prior": f"CDM of {info.name}", "prior_licence": info.licence, "seed": seed, "steps": STEPS}
    return EmbeddingGrid(
        features=np.zeros((1, 1, info.embedding_dim), np.float32),
        tissue=np.ones((1, 1), bool),
        background=np.zeros(info.embedding_dim, np.float32),
        tile_px=model.tile_px,
        overlap_px=0,
        downsample=1.0,
        origin_xy=(0, 0),
        encoder=info.encoder,
        licence=info.encoder_licence,
        source=SourceInfo(
            name=NAME,
            path="",
            kind="slide" if model.mpp else "image",
            width=model.tile_px,
            height=model.tile_px,
            background=(255, 255, 255),
            mpp=model.mpp,
            imagined=json.dumps(made_by),
        ),
    )
