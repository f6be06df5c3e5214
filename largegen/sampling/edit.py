"""A part of an image made anew, with all around it as it was.

pixels -> latents; those outside the mask stay (keep.py), the others are sampled under new embeddings -> pixels, of
which those outside the mask are replaced by the image's own, blended over a margin.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from largegen.conditioning.reference import encoder_of
from largegen.errors import InputError
from largegen.models.encoder import Encoder, load_encoder
from largegen.models.model import Model
from largegen.models.pixels import to_network
from largegen.sampling.content import Content, surroundings
from largegen.sampling.generate import decode_bands, resolve_defaults, sample_latents
from largegen.sampling.keep import Keep
from largegen.sampling.noise import INITIAL, noise
from largegen.sampling.rows import in_memory
from largegen.sampling.schedulers import make_scheduler
from largegen.sampling.settings import Sampling
from largegen.sampling.windows import Place, axis_starts
from largegen.sampling.zoom.consistency import Likeness

MARGIN_PX = 32  # over which what is made is blended with what is there
ENCODE_BATCH = 8  # tiles or windows at once


def edit(
    model: Model,
    image: np.ndarray,
    mask: np.ndarray,
    content: Content | None = None,
    *,
    strength: float = 1.0,
    margin: int = MARGIN_PX,
    encoder: Encoder | None = None,
    progress: bool = False,
    **settings: Any,
) -> np.ndarray:
    """Make a part of an image anew; in memory. For files, `edit_file`.

    What is made is invented by the model: it is no observation.

    Args:
        model: from `load_model`.
        image: (H, W, 3) uint8, at the model's finest magnification.
        mask: (H, W) bool, True where the image may change.
        content: gives the embeddings under the new image: see `content.py` for some. None: those around.
        strength: part of the steps that are taken, 0 to 1: less keeps more of the form of what is there.
        margin: px around the mask over which old and new are blended. Farther out no pixel changes.
        encoder: the model's, where it cannot be loaded by its name.
        progress: show progress bars on a terminal.
        settings: fields of `Sampling`: `steps`, `guidance`, `seed`, `batch_size` and others.

    Returns:
        (H, W, 3) uint8.

    Raises:
        InputError: for an image, a mask or settings that cannot be.
    """
    image, mask = np.asarray(image), np.asarray(mask)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(f"`image` {image.dtype} of shape {image.shape}: must be uint8 (height, width, 3)")
    if mask.dtype != bool or mask.shape != image.shape[:2] or not mask.any():
        raise InputError(
            f"`mask` {mask.dtype} of shape {mask.shape}: must be bool {image.shape[:2]}, and not all False"
        )
    sampling = edit_sampling(Sampling(**settings), model)
    check_edit(strength, margin)
    features = tile_embeddings(model, image, encoder)
    touched = touched_tiles(mask, model.tile_px)
    features = (content or surroundings)(features, touched)
    canvas, _ = edit_latents(model, image, mask, features, sampling, strength, progress=progress)
    decoded = decode_bands(model, canvas, sampling, progress=progress)
    return np.concatenate([band for _, band in blended_bands(decoded, image, mask, margin)])


def edit_sampling(sampling: Sampling, model: Model) -> Sampling:
    """Return how a part is sampled: by overlapping windows, defaults filled in."""
    return resolve_defaults(replace(sampling, windows="overlap"), model)


def check_edit(strength: float, margin: int) -> None:
    """Raise InputError for a strength or a margin that cannot be."""
    if not 0 < strength <= 1:
        raise InputError(f"`strength` {strength:g}: must be more than 0, and 1 at most")
    if margin < 0:
        raise InputError(f"`margin` {margin}: must be 0 or more")


def touched_tiles(mask: np.ndarray, tile_px: int) -> np.ndarray:
    """Find the tiles that a mask (H, W) touches: (ceil(H / tile_px), ceil(W / tile_px)) bool."""
    return _pooled(mask, tile_px)


def _pooled(mask: np.ndarray, side: int) -> np.ndarray:
    """Say of each square of `side` px whether a mask (H, W) is True anywhere in it."""
    height, width = mask.shape
    rows, cols = range(0, height, side), range(0, width, side)
    found: np.ndarray = np.logical_or.reduceat(np.logical_or.reduceat(mask, rows, 0), cols, 1)
    return found


def tile_embeddings(
    model: Model, image: np.ndarray, encoder: Encoder | None = None, wanted: np.ndarray | None = None
) -> Tensor:
    """Embed the tiles of an image (H, W, 3) from its corner on, (R, C, D) float32; at its end it is mirrored.

    wanted: (R, C) bool, the tiles that are embedded; the others are zeros. None: all.
    """
    encoder = encoder or load_encoder(encoder_of(model), device=model.device)
    whole, side = _extended(image, model.tile_px, model.tile_px), model.tile_px
    rows, cols = whole.shape[0] // side, whole.shape[1] // side
    places = np.argwhere(np.ones((rows, cols), bool) if wanted is None else wanted)
    found = torch.zeros(rows, cols, encoder.dim)
    for first in range(0, len(places), ENCODE_BATCH):
        batch = places[first : first + ENCODE_BATCH]
        tiles = np.stack([whole[row * side :, col * side :][:side, :side] for row, col in batch])
        found[tuple(torch.from_numpy(batch).T)] = torch.from_numpy(encoder.encode(tiles))
    return found


def _extended(image: np.ndarray, step: int, least: int) -> np.ndarray:
    """Mirror the end of an image (H, W, ...) to sides that are multiples of `step`, and `least` or more."""
    sides = [max(least, -(-side // step) * step) for side in image.shape[:2]]
    more = [(0, new - old) for new, old in zip(sides, image.shape[:2], strict=True)]
    return np.pad(image, [*more, *[(0, 0)] * (image.ndim - 2)], "symmetric") if any(n for _, n in more) else image


def encode_image(model: Model, image: np.ndarray, wanted: np.ndarray | None = None) -> Tensor:
    """Encode an image of any size in windows that overlap by half.

    Args:
        model: whose autoencoder encodes.
        image: (H, W, 3) uint8; sides are multiples of the autoencoder's factor, and a window or more.
        wanted: (H / f, W / f) bool: windows without any of these latents are left out, as zeros. None: all.

    Returns:
        (1, C, H / f, W / f) float32 on the CPU.
    """
    f, window = model.factor, model.window
    height, width = image.shape[0] // f, image.shape[1] // f
    latents = torch.zeros(1, model.autoencoder.channels, height, width)
    needed = np.ones((height, width), bool) if wanted is None else wanted
    inner = window // 4  # latents at a window's beginning that the window before knows better
    starts = [axis_starts(side, window, max(1, window // 2)) for side in (height, width)]
    for top in starts[0]:
        those = [left for left in starts[1] if needed[top : top + window, left : left + window].any()]
        for first in range(0, len(those), ENCODE_BATCH):
            lefts = those[first : first + ENCODE_BATCH]
            parts = [image[top * f : (top + window) * f, left * f : (left + window) * f] for left in lefts]
            encoded = model.autoencoder.encode(to_network(np.stack(parts))).cpu()
            y = inner if top else 0
            for left, part in zip(lefts, encoded, strict=True):
                x = inner if left else 0
                latents[0, :, top + y : top + window, left + x : left + window] = part[:, y:, x:]
    return latents


def edit_latents(
    model: Model,
    image: np.ndarray,
    mask: np.ndarray,
    features: Tensor,
    sampling: Sampling,
    strength: float = 1.0,
    *,
    origin: Place = (0, 0),
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """Sample the latents of an image anew where a mask touches them.

    Args:
        model: whose denoiser samples.
        image: (H, W, 3) uint8.
        mask: (H, W) bool, True where the image may change.
        features: (R, C, D), the embeddings of its tiles.
        sampling: as `edit_sampling` gives it.
        strength: part of the steps that are taken.
        origin: (row, column) of the image in the noise field, in latents.
        options: further arguments of `canvas.sample_canvas`.

    Returns:
        (1, C, h, w) float32 on the CPU, of the image extended to what the model can sample; and which of them are
        new, (h, w) bool.
    """
    extended = _extended(image, model.factor, model.tile_px)
    height, width = extended.shape[:2]
    free = np.zeros((height // model.factor, width // model.factor), bool)
    pooled = _pooled(mask, model.factor)
    free[: pooled.shape[0], : pooled.shape[1]] = pooled
    last = round(strength * sampling.steps)
    known, new = encode_image(model, extended, None if last < sampling.steps else ~free), torch.from_numpy(free)
    if last < sampling.steps:
        last = max(1, last)
        scheduler = make_scheduler(sampling.scheduler, model.scheduler, sampling.steps, sampling.timesteps)
        channels, rows, cols = known.shape[1:]
        field = noise(sampling.seed, INITIAL, *origin, rows, cols, channels)
        options |= {"latents": scheduler.add_noise(known, field, scheduler.timesteps[-last, None]), "last_steps": last}
    latents = sample_latents(
        model, features, height, width, sampling, correct=Keep(known, ~new), origin=origin, **options
    )
    return torch.where(new, in_memory(latents), known), new


def blended_bands(
    decoded: Iterable[tuple[int, np.ndarray]],
    image: np.ndarray,
    mask: np.ndarray,
    margin: int,
    likeness: Likeness | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Put what is new into an image: all of it inside the mask, and less and less over a margin around it.

    Args:
        decoded: (y0, (h, W', 3) uint8) of the new image from top to bottom without gaps; may be larger than the image.
        image: (H, W, 3) uint8.
        mask: (H, W) bool.
        margin: px around the mask; farther out every pixel is the image's own.
        likeness: is told how far the autoencoder is from the image outside the mask and its margin.

    Yields:
        (y0, (h, W, 3) uint8), likewise.
    """
    height, width = mask.shape
    for y, band in decoded:
        rows = min(len(band), height - y)
        if rows <= 0:
            return
        old, new = image[y : y + rows], band[:rows, :width]
        share = new_share(mask, y, rows, margin)[..., None]
        if likeness is not None:
            likeness.add(torch.from_numpy((old.astype(np.float32) - new)[share[..., 0] == 0] / 127.5))
        mixed = np.rint(share * new + (1 - share) * old).astype(np.uint8)
        yield y, np.where(share > 0, mixed, old)


def new_share(mask: np.ndarray, top: int, rows: int, margin: int) -> np.ndarray:
    """Compute how much of each pixel of some rows is new, (rows, W) float32: 1 in the mask, 0 beyond the margin."""
    from scipy.ndimage import distance_transform_edt

    first = max(0, top - margin)
    around = mask[first : top + rows + margin]
    if not around.any():
        return np.zeros((rows, mask.shape[1]), np.float32)
    far = distance_transform_edt(~around)[top - first :][:rows]  # 1 beside the mask
    share: np.ndarray = np.clip(1 - far / (margin + 1), 0, 1).astype(np.float32)
    return share
