"""Single patches at any magnification level, at places of a reference: where they are, and how they are sampled."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from largegen.conditioning.area import ImageArea
from largegen.conditioning.reference import Reference
from largegen.embeddings.grid import EmbeddingGrid
from largegen.models.model import Model
from largegen.sampling.canvas import sample_canvas
from largegen.sampling.generate import denoiser_of
from largegen.sampling.noise import INITIAL, noise
from largegen.sampling.rows import in_memory
from largegen.sampling.schedulers import make_scheduler
from largegen.sampling.settings import Sampling
from largegen.slides.tissue import REGION_TILES, sliding_sums


def choose_places(tissue: np.ndarray, level: int, count: int, seed: int) -> list[tuple[int, int]]:
    """Choose squares of 2^level tiles at random.

    Squares hold at least REGION_TILES of tissue, or as much as any does; they may stick out of the grid, as they do in
    training. Where there are fewer places, they are drawn several times.

    Args:
        tissue: (rows, cols) bool, of the tiles.
        level: magnification level.
        count: number of squares.
        seed: of the choice.

    Returns:
        The first tile (row, col) of each square; may be negative.
    """
    side = 2**level
    held = sliding_sums(np.pad(tissue, side - 1), side, side)
    places = np.argwhere(held >= min(max(1, REGION_TILES * side**2), held.max())) - (side - 1)
    rng = np.random.default_rng(seed % 2**64)
    rounds = [rng.permutation(len(places)) for _ in range(-(-count // len(places)))]
    return [tuple(places[n].tolist()) for n in np.concatenate(rounds)[:count]]


def grids_at(
    reference: Reference, places: Sequence[tuple[int, int]], level: int, tile_px: int
) -> tuple[Tensor, EmbeddingGrid]:
    """Read the embeddings of squares of 2^level tiles; what lies off the reference has the background's.

    Args:
        reference: an open one.
        places: first tile (row, col) of each square.
        level: magnification level.
        tile_px: side of a tile.

    Returns:
        (N, 2^level, 2^level, D), and the last grid as it was read.
    """
    side, (rows, cols) = 2**level, reference.tissue.shape
    # One by one, unless that is more work than all of the reference.
    whole = len(places) * side**2 >= reference.tissue.sum()
    grid = reference.grid(ImageArea(cols * tile_px, rows * tile_px, 0, 0, rows, cols, full=True)) if whole else None
    found = []
    for top, left in places:
        row, col = max(top, 0), max(left, 0)
        height, width = min(top + side, rows) - row, min(left + side, cols) - col
        if grid is not None:
            part = grid.crop(row, col, height, width)
        else:
            part = reference.grid(ImageArea(width * tile_px, height * tile_px, row, col, height, width, full=False))
        features = np.tile(part.background, (side, side, 1))
        features[row - top : row - top + height, col - left : col - left + width] = part.features
        found.append(torch.from_numpy(features))
    return torch.stack(found), part


def sample_patches(model: Model, grids: Tensor, level: int, sampling: Sampling, **options: Any) -> Tensor:
    """Sample one patch for each grid of base embeddings.

    Args:
        model: whose denoiser samples.
        grids: (N, h, w, D), the embeddings under each patch.
        level: magnification level.
        sampling: as `generate.resolve_defaults` gives it.
        options: further arguments of `sample_under`.

    Returns:
        Latents (N, C, w, w) float32 on the CPU.
    """
    contexts = torch.cat([model.context(part, level) for part in grids.split(16)])
    return sample_under(model, contexts, sampling, **options)


def sample_under(
    model: Model,
    contexts: Tensor,
    sampling: Sampling,
    *,
    draft: Tensor | None = None,
    last_steps: int | None = None,
    progress: bool = False,
) -> Tensor:
    """Sample one patch for each context.

    The noise of patch n is the same however many there are, and differs from that of any canvas.

    Args:
        model: whose denoiser samples.
        contexts: (N, T, D), the tokens of each patch.
        sampling: as `generate.resolve_defaults` gives it.
        draft: latents (1, C, w, w) of one patch, to start from: noise is added and removed again.
        last_steps: with `draft`, so many of the scheduler's steps.
        progress: show a progress bar.

    Returns:
        Latents (N, C, w, w) float32 on the CPU.
    """
    count, window, origin = len(contexts), model.window, (-model.window, 0)
    if draft is not None and last_steps is not None:
        scheduler = make_scheduler(sampling.scheduler, model.scheduler, sampling.steps, sampling.timesteps)
        field = noise(sampling.seed, INITIAL, *origin, window, window, draft.shape[1])
        draft = scheduler.add_noise(draft.cpu(), field, scheduler.timesteps[-last_steps, None])
    latents = sample_canvas(  # patches lie side by side, and no window on two of them
        denoiser_of(model, sampling),
        lambda places: contexts[[left // window for _, left in places]],
        model.scheduler,
        (model.autoencoder.channels, window, count * window),
        replace(sampling, windows="overlap", stride=window),
        window=window,
        null=model.null_context(),
        latents=draft,
        last_steps=last_steps,
        origin=origin,
        device=model.device,
        progress=progress,
    )
    return torch.cat(in_memory(latents).split(window, dim=-1))
