"""Joint sampling of a guide and the tiles of the base image, as published [Z, alg. 1].

`joint_steps` is the method itself and knows no network: denoiser, decoder and encoder are passed in as functions.
"""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from diffusers import DDIMScheduler
from torch import Tensor
from tqdm import tqdm

from largegen.sampling.denoise import Denoise
from largegen.sampling.resume import Checkpoint, ProgressSaver
from largegen.sampling.schedulers import clean_of, eps_of
from largegen.sampling.settings import Zooming
from largegen.sampling.walk import check_finite
from largegen.sampling.zoom.downsample import enlarge, shrink

log = logging.getLogger(__name__)

Transcode = Callable[[Tensor], Tensor]  # latents (B, C, h, w) <-> images (B, 3, f*h, f*w) in [-1, 1]


def pieces_of(whole: Tensor, rows: int, cols: int) -> Tensor:
    """Cut (1, C, H, W) into (rows * cols, C, H / rows, W / cols), row by row."""
    height, width = whole.shape[-2] // rows, whole.shape[-1] // cols
    pieces = whole[0].unfold(1, height, height).unfold(2, width, width)  # (C, rows, cols, h, w)
    return pieces.permute(1, 2, 0, 3, 4).flatten(0, 1)


def whole_of(pieces: Tensor, rows: int, cols: int) -> Tensor:
    """Join (rows * cols, C, s, s) to (1, C, rows * s, cols * s): the inverse of `pieces_of`."""
    channels, side = pieces.shape[1:3]
    grid = pieces.view(rows, cols, channels, side, side)
    return grid.permute(2, 0, 3, 1, 4).reshape(1, channels, rows * side, cols * side)


@torch.no_grad()
def joint_steps(
    denoise: Denoise,
    decode: Transcode,
    encode: Transcode,
    scheduler: DDIMScheduler,
    state: Tensor,
    contexts: Tensor,
    side: int,
    zooming: Zooming,
    *,
    pieces: Tensor | None = None,
    first: int = 0,
    batch_size: int = 8,
    on_tiles: Callable[[int], object] = lambda count: None,
) -> Iterator[tuple[int, Tensor]]:
    """Denoise side x side tiles and their guide together [Z, alg. 1].

    At every step the guide's predicted image is cut into side x side pieces, each tile is moved towards its piece, and
    DDIM steps them all.

    Args:
        denoise: with guidance (`denoise.guided`).
        decode: latents -> images in [-1, 1].
        encode: images in [-1, 1] -> latents.
        scheduler: DDIM's.
        state: (side^2 + 1, C, w, w) float32 after `first` steps: the tiles, row by row, and the guide.
        contexts: (side^2 + 1, T, D), theirs.
        side: tiles per side.
        zooming: settings of the inner iteration.
        pieces: (n, 3, h, w) in [-1, 1], of a guide that is there already and stays as it is, one for each tile; state
            and contexts are then those of n tiles alone, however they lie.
        first: steps that are done.
        batch_size: tiles at once.
        on_tiles: is told how many tiles are done, after each batch.

    Yields:
        After each step, the number of steps done and the state.
    """
    count = len(state) - (pieces is None)
    for step in range(first, len(scheduler.timesteps)):
        timestep = scheduler.timesteps[step]

        def predict(noisy: Tensor, context: Tensor, timestep: Tensor = timestep) -> Tensor:
            return clean_of(denoise(noisy, timestep, context).to(noisy), noisy, scheduler, timestep)

        clean = torch.empty_like(state)
        aims = pieces
        if aims is None:
            clean[count:] = predict(state[count:], contexts[count:])
            aims = pieces_of(decode(clean[count:]).float().cpu().clamp(-1, 1), side, side)
        for start in range(0, count, batch_size):
            batch = slice(start, min(start + batch_size, count))
            state[batch], clean[batch] = _towards(
                aims[batch], state[batch], contexts[batch], predict, decode, encode, zooming
            )
            on_tiles(batch.stop - start)
        state = scheduler.step(eps_of(clean, state, scheduler, timestep), timestep, state).prev_sample
        yield step + 1, state


def sample_jointly(
    denoise: Denoise,
    decode: Transcode,
    encode: Transcode,
    scheduler: DDIMScheduler,
    *,
    tiles: Tensor,
    guide: Tensor | None,
    tile_contexts: Tensor,
    guide_context: Tensor | None,
    side: int,
    zooming: Zooming,
    pieces: Tensor | None = None,
    batch_size: int = 8,
    checkpoint: Checkpoint | None = None,
    progress: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run `joint_steps` with progress and a checkpoint.

    Args:
        denoise: with guidance (`denoise.guided`).
        decode: latents -> images in [-1, 1].
        encode: images in [-1, 1] -> latents.
        scheduler: DDIM's.
        tiles: noise to start from, (side^2, C, w, w), row by row.
        guide: noise to start from, (1, C, w, w); None where there are `pieces`.
        tile_contexts: (side^2, T, D).
        guide_context: (1, T, D); None likewise.
        side: tiles per side; any number where there are `pieces`.
        zooming: settings of the inner iteration.
        pieces: see `joint_steps`.
        batch_size: tiles at once.
        checkpoint: what a killed run resumes from, written after every step; its fingerprint stands for all that the
            result depends on but the noise.
        progress: show a progress bar.

    Returns:
        The tiles' and the guide's latents, float32 on the CPU.

    Raises:
        LargegenError: where a network gives NaN or infinite values.
    """
    first, steps, count = 0, len(scheduler.timesteps), len(tiles)
    state, contexts = (
        torch.cat([part for part in parts if part is not None])
        for parts in ((tiles.float(), guide), (tile_contexts, guide_context))
    )
    saver = None
    if checkpoint is not None:
        settings = json.dumps([side, zooming.inner_steps, zooming.inner_rate, zooming.fd_step, steps])
        saver = ProgressSaver(replace(checkpoint, save_every_s=0.0), settings)
        if saved := saver.load():
            first, state = saved.step, saved.canvas
            log.info("%s: resuming after step %d of %d", checkpoint.path, first, steps)
    bar = tqdm(desc="zoom", unit="tile", total=steps * count, initial=first * count, disable=None if progress else True)
    work = joint_steps(
        denoise,
        decode,
        encode,
        scheduler,
        state,
        contexts,
        side,
        zooming,
        pieces=pieces,
        first=first,
        batch_size=batch_size,
        on_tiles=bar.update,
    )
    with bar:
        for step, state in work:
            check_finite(state, step, steps)
            if saver is not None:
                saver.save(step, batch_size, state, {}, last=step == steps)
    return state[:count], state[count:]


def _towards(
    pieces: Tensor,
    noisy: Tensor,
    contexts: Tensor,
    predict: Callable[[Tensor, Tensor], Tensor],
    decode: Transcode,
    encode: Transcode,
    zooming: Zooming,
) -> tuple[Tensor, Tensor]:
    """Move a batch of tiles towards their pieces of the guide, an inexact Newton step at a time [Z, alg. 1].

    Each step goes along the denoiser's response to the direction in which the encoder sees the tile come nearer to its
    piece, by forward differences, without a backward pass.

    Returns:
        The tiles' noisy latents, moved, and their predicted clean ones.
    """
    clean = predict(noisy, contexts)
    for _ in range(zooming.inner_steps):
        image = decode(clean).float().cpu()
        factor = image.shape[-1] // pieces.shape[-1]
        residual = _unit(enlarge(pieces - shrink(image, factor), factor))
        moved = encode(image + zooming.fd_step * residual).float().cpu()
        direction = _unit(moved - encode(image).float().cpu())
        response = (predict(noisy + zooming.fd_step * direction, contexts) - clean) / zooming.fd_step
        noisy = noisy + zooming.inner_rate * _unit(response)
        clean = predict(noisy, contexts)
    return noisy, clean


def _unit(values: Tensor) -> Tensor:
    """Divide each sample by its largest absolute value."""
    return values / values.abs().flatten(1).amax(1).clamp(min=1e-12)[:, None, None, None]
