"""Joint sampling of a guide and the tiles of the base image, as published [Z, alg. 1].

It knows no network: denoiser, decoder and encoder are passed in as functions.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDIMScheduler
from torch import Tensor
from tqdm import tqdm

from largegen.errors import LargegenError
from largegen.sampling.denoise import Denoise
from largegen.sampling.resume import load_progress, save_progress
from largegen.sampling.schedulers import clean_of, eps_of
from largegen.sampling.zoom.downsample import enlarge, shrink

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class InnerIteration:
    """How tiles are drawn towards the guide at every step."""

    steps: int = 10  # K; 0 leaves the tiles alone
    rate: float = 0.5  # of the change of a tile's noisy latents
    fd_step: float = 0.005  # h, of the forward differences


def pieces_of(whole: Tensor, rows: int, cols: int) -> Tensor:
    """Cut (1, C, H, W) into (rows * cols, C, H / rows, W / cols), row by row."""
    height, width = whole.shape[-2] // rows, whole.shape[-1] // cols
    pieces = whole[0].unfold(1, height, height).unfold(2, width, width)  # (C, rows, cols, h, w)
    return pieces.permute(1, 2, 0, 3, 4).flatten(0, 1)


def whole_of(pieces: Tensor, rows: int, cols: int) -> Tensor:
    """(rows * cols, C, s, s) -> (1, C, rows * s, cols * s): the inverse of `pieces_of`."""
    channels, side = pieces.shape[1:3]
    grid = pieces.view(rows, cols, channels, side, side)
    return grid.permute(2, 0, 3, 1, 4).reshape(1, channels, rows * side, cols * side)


@torch.no_grad()
def sample_jointly(
    denoise: Denoise,
    decode: Callable[[Tensor], Tensor],
    encode: Callable[[Tensor], Tensor],
    scheduler: DDIMScheduler,
    *,
    tiles: Tensor,
    guide: Tensor,
    tile_contexts: Tensor,
    guide_context: Tensor,
    side: int,
    inner: InnerIteration,
    batch_size: int = 8,
    checkpoint: Path | None = None,
    fingerprint: str = "",
    progress: bool = False,
) -> tuple[Tensor, Tensor]:
    """Sample side x side tiles and their guide; returns both, (side^2, C, w, w) and (1, C, w, w) float32 on the CPU.

    denoise: with guidance (denoise.guided). decode, encode: latents <-> images in [-1, 1]. tiles, guide: the noise
    to start from, tiles row by row. tile_contexts: (side^2, T, D); guide_context: (1, T, D). checkpoint: a file that a
    killed run resumes from, step by step; fingerprint: stands for all that the result depends on but the noise.

    At every step the guide's predicted image is cut into side x side pieces, and each tile is moved, `inner.steps`
    times, along the denoiser's response to the direction in which the encoder sees the tile come nearer to its piece:
    an inexact Newton step by forward differences, without a backward pass.
    """
    settings = json.dumps([side, inner.steps, inner.rate, inner.fd_step, len(scheduler.timesteps), fingerprint])
    first, state = 0, torch.cat([tiles, guide]).float()  # the guide comes last
    if checkpoint is not None and (saved := load_progress(checkpoint, settings)):
        first, state = saved["step"], saved["canvas"]
        log.info("%s: resuming after step %d of %d", checkpoint, first, len(scheduler.timesteps))
    contexts = torch.cat([tile_contexts, guide_context])
    steps, count = len(scheduler.timesteps), side**2
    bar = tqdm(desc="zoom", unit="tile", total=steps * count, initial=first * count, disable=None if progress else True)
    with bar:
        for step in range(first, steps):
            timestep = scheduler.timesteps[step]

            def predict(noisy: Tensor, context: Tensor, timestep: Tensor = timestep) -> Tensor:
                return clean_of(denoise(noisy, timestep, context).to(noisy), noisy, scheduler, timestep)

            clean = torch.empty_like(state)
            clean[count:] = predict(state[count:], contexts[count:])
            pieces = pieces_of(decode(clean[count:]).float().cpu().clamp(-1, 1), side, side)
            for start in range(0, count, batch_size):
                batch = slice(start, min(start + batch_size, count))
                state[batch], clean[batch] = _towards(
                    pieces[batch], state[batch], contexts[batch], predict, decode, encode, inner
                )
                bar.update(batch.stop - start)
            eps = eps_of(clean, state, scheduler, timestep)
            state = scheduler.step(eps, timestep, state).prev_sample
            if not state.isfinite().all():
                raise LargegenError(f"step {step + 1} of {steps} gave NaN or infinite latents; try --precision fp32")
            if checkpoint is not None:
                save_progress(checkpoint, settings, step + 1, batch_size, state, scheduler)
    return state[:count], state[count:]


def _towards(
    pieces: Tensor,
    noisy: Tensor,
    contexts: Tensor,
    predict: Callable[[Tensor, Tensor], Tensor],
    decode: Callable[[Tensor], Tensor],
    encode: Callable[[Tensor], Tensor],
    inner: InnerIteration,
) -> tuple[Tensor, Tensor]:
    """Noisy latents of a batch of tiles moved towards their pieces of the guide, and their clean ones [Z, alg. 1]."""
    clean = predict(noisy, contexts)
    for _ in range(inner.steps):
        image = decode(clean).float().cpu()
        factor = image.shape[-1] // pieces.shape[-1]
        residual = _unit(enlarge(pieces - shrink(image, factor), factor))
        moved = encode(image + inner.fd_step * residual).float().cpu()
        direction = _unit(moved - encode(image).float().cpu())
        response = (predict(noisy + inner.fd_step * direction, contexts) - clean) / inner.fd_step
        noisy = noisy + inner.rate * _unit(response)
        clean = predict(noisy, contexts)
    return noisy, clean


def _unit(values: Tensor) -> Tensor:
    """Each sample divided by its largest absolute value."""
    return values / values.abs().flatten(1).amax(1).clamp(min=1e-12)[:, None, None, None]
