"""A part of an image made anew, with all around it as it was.

pixels -> latents (encode.py); those outside the mask stay (keep.py), the others are sampled under new embeddings ->
pixels, of which those outside the mask are replaced by the image's own, blended over a margin. All is done in bands of
rows, so that the memory does not grow with the image.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from largegen.conditioning.reference import encoder_of
from largegen.errors import InputError
from largegen.models.encoder import Encoder, load_encoder
from largegen.models.model import Model
from largegen.sampling.content import Content, surroundings
from largegen.sampling.encode import encode_image
from largegen.sampling.generate import decode_bands, resolve_defaults, sample_latents
from largegen.sampling.keep import Keep
from largegen.sampling.noise import INITIAL, noise
from largegen.sampling.original import Original
from largegen.sampling.resume import Checkpoint
from largegen.sampling.rows import ComputedLatents, Latents, rows_of
from largegen.sampling.schedulers import make_scheduler
from largegen.sampling.settings import Sampling
from largegen.sampling.walk import Background
from largegen.sampling.windows import Place
from largegen.sampling.zoom.consistency import Likeness

MARGIN_PX = 32  # over which what is made is blended with what is there
JOINING = 0.5  # of the steps, the last ones, in which what is within the margin joins what is new
CONTEXT_TILES = 4  # on each side of a part that is made anew, whose embeddings tell what goes with it
EMBED_BATCH = 8  # tiles at once
BLEND_ROWS = 64  # px that are blended at once: distances take room


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
    sampling = edit_sampling(Sampling(**settings), model, strength)
    check_edit(strength, margin)
    (rows, cols), f = (np.flatnonzero(mask.any(axis)) for axis in (1, 0)), model.factor
    bounds = int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1
    x, y, width, height = box_around(bounds, (image.shape[1], image.shape[0]), model, margin)
    part = slice(y, y + height), slice(x, x + width)
    original = Original.of_arrays(image[part], mask[part])
    features = tile_embeddings(model, original, encoder)
    features = (content or surroundings)(features, original.changed(model.tile_px))
    origin = y // f, x // f
    edited = edit_latents(model, original, features, sampling, strength, margin, origin=origin, progress=progress)
    bands = edited_bands(model, original, edited, sampling, margin, progress)
    found = image.copy()
    found[part] = np.concatenate([band for _, band in bands])
    return found


def edit_sampling(sampling: Sampling, model: Model, strength: float) -> Sampling:
    """Return how a part is sampled, defaults filled in: where not all steps are taken, by overlapping windows."""
    if last_steps(sampling, strength) < sampling.steps:
        sampling = replace(sampling, windows="overlap")
    return resolve_defaults(sampling, model)


def last_steps(sampling: Sampling, strength: float) -> int:
    """Count the steps that are taken."""
    return max(1, round(strength * sampling.steps))


def box_around(
    bounds: tuple[int, int, int, int], size: tuple[int, int], model: Model, margin: int
) -> tuple[int, int, int, int]:
    """Find what a model must see to make what is inside some bounds anew: some tiles more on each side.

    Tiles that lie side by side from its corner on begin where the bounds do, but near the image's upper and left edge.

    Args:
        bounds: left, top, right and bottom of what is made anew, in px.
        size: (width, height) of the image.
        model: whose tiles they are.
        margin: px around it that are blended.

    Returns:
        (x, y, width, height) of the rectangle; its corner lies on the image's latents.
    """
    f, tile = model.factor, model.tile_px
    more = max(CONTEXT_TILES, -(-margin // tile))
    x, y = (v // f * f - min(more, v // tile) * tile if v >= tile else 0 for v in bounds[:2])
    right, bottom = (min(length, v + more * tile) for length, v in zip(size, bounds[2:], strict=True))
    return x, y, right - x, bottom - y


def check_edit(strength: float, margin: int) -> None:
    """Raise InputError for a strength or a margin that cannot be."""
    if not 0 < strength <= 1:
        raise InputError(f"`strength` {strength:g}: must be more than 0, and 1 at most")
    if margin < 0:
        raise InputError(f"`margin` {margin}: must be 0 or more")


def tile_embeddings(
    model: Model, original: Original, encoder: Encoder | None = None, wanted: np.ndarray | None = None
) -> Tensor:
    """Embed the tiles of an image from its corner on, (R, C, D) float32; at its end it is mirrored.

    wanted: (R, C) bool, the tiles that are embedded; the others are zeros. None: all.
    """
    encoder = encoder or load_encoder(encoder_of(model), device=model.device)
    side = model.tile_px
    rows, cols = (-(-length // side) for length in original.size)
    found = torch.zeros(rows, cols, encoder.dim)
    for row in range(rows):
        those = np.arange(cols) if wanted is None else np.flatnonzero(wanted[row])
        band = original.extended(row * side, (row + 1) * side, cols * side) if len(those) else np.empty(0)
        for first in range(0, len(those), EMBED_BATCH):
            batch = those[first : first + EMBED_BATCH]
            tiles = np.stack([band[:, col * side :][:, :side] for col in batch])
            found[row, torch.from_numpy(batch)] = torch.from_numpy(encoder.encode(tiles))
    return found


@dataclass(frozen=True)
class Edited:
    """The latents of an image of which a part was made anew."""

    latents: Latents  # (1, C, h, w), of the image extended to what the model can sample; far from the part they are 0
    changed: np.ndarray  # (h, w) bool: of the part and the margin around it
    shown: np.ndarray  # (h, w) bool, of these and a little more


def edit_latents(
    model: Model,
    original: Original,
    features: Tensor,
    sampling: Sampling,
    strength: float = 1.0,
    margin: int = MARGIN_PX,
    *,
    origin: Place = (0, 0),
    checkpoint: Checkpoint | None = None,
    progress: bool = False,
) -> Edited:
    """Sample the latents of an image anew where a mask touches them.

    Those of the margin stay as they are until the last steps, in which they join what is new.

    Args:
        model: whose denoiser samples.
        original: the image and its mask.
        features: (R, C, D), the embeddings of its tiles.
        sampling: as `edit_sampling` gives it.
        strength: part of the steps that are taken.
        margin: px around the mask that `edited_bands` will blend.
        origin: (row, column) of the image in the noise field, in latents.
        checkpoint: see `canvas.sample_canvas`. The image's own latents, where they are many, go to a file beside it.
        progress: show a progress bar.
    """
    f = model.factor
    height, width = (max(model.tile_px, -(-side // f) * f) for side in original.size)
    new, free = part_latents(original, model, margin)
    shown = _around(free, model.window // 2)
    wanted = _around(shown, model.window)  # all that windows see which are sampled or decoded
    last = last_steps(sampling, strength)
    if last == sampling.steps:
        wanted &= ~new
    known = encode_image(model, original, (height, width), wanted, checkpoint and checkpoint.part("known"))
    changed, options = torch.from_numpy(free), {}
    if last < sampling.steps:
        scheduler = make_scheduler(sampling.scheduler, model.scheduler, sampling.steps, sampling.timesteps)
        timestep, channels = scheduler.timesteps[-last, None], known.shape[1]

        def noised(top: int, bottom: int) -> Tensor:
            field = noise(sampling.seed, INITIAL, origin[0] + top, origin[1], bottom - top, new.shape[1], channels)
            return scheduler.add_noise(rows_of(known, top, bottom), field, timestep)

        options = {"latents": ComputedLatents((1, channels, *new.shape), noised), "last_steps": last}
    sampled = sample_latents(
        model,
        features,
        height,
        width,
        sampling,
        correct=Keep(known, torch.from_numpy(~new), ~changed, round((1 - JOINING) * sampling.steps)),
        background=Background(~free),  # windows of nothing that changes need no denoiser
        origin=origin,
        checkpoint=checkpoint,
        progress=progress,
        **options,
    )

    def joined(top: int, bottom: int) -> Tensor:
        return torch.where(changed[top:bottom], rows_of(sampled, top, bottom), rows_of(known, top, bottom))

    return Edited(ComputedLatents((1, known.shape[1], *new.shape), joined), free, shown)


def part_latents(original: Original, model: Model, margin: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the latents that a mask touches, and those that its margin touches, too: (h, w) bool each.

    h, w: of the image extended to what the model can sample.
    """
    f, touched = model.factor, original.touched(model.factor)
    new = np.zeros([max(model.window, -(-side // f)) for side in original.size], bool)
    new[: touched.shape[0], : touched.shape[1]] = touched
    return new, _around(new, -(-margin // f))


def _around(mask: np.ndarray, reach: int) -> np.ndarray:
    """Take in what is up to `reach` rows and columns from a mask (h, w) bool."""
    from scipy.ndimage import maximum_filter1d

    grown = maximum_filter1d(mask.astype(np.uint8), 2 * reach + 1, 0, mode="constant")
    found: np.ndarray = maximum_filter1d(grown, 2 * reach + 1, 1, mode="constant").astype(bool)
    return found


def edited_bands(
    model: Model,
    original: Original,
    edited: Edited,
    sampling: Sampling,
    margin: int,
    progress: bool = False,
    likeness: Likeness | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode what is new, and put it into the image: all of it inside the mask, less and less over a margin around it.

    Args:
        model: whose autoencoder decodes.
        original: the image and its mask.
        edited: as `edit_latents` gives it, for this margin.
        sampling: as `edit_sampling` gives it.
        margin: px around the mask; farther out every pixel is the image's own.
        progress: show a progress bar.
        likeness: is told how far the autoencoder is from the image near the mask, outside its margin.

    Yields:
        (y0, (h, W, 3) uint8) of the image, from top to bottom without gaps.
    """
    f, (height, width) = model.factor, original.size
    for first, band in decode_bands(model, edited.latents, sampling, ~edited.shown, progress=progress):
        for y in range(first, min(first + len(band), height), BLEND_ROWS):
            end = min(y + BLEND_ROWS, first + len(band), height)
            old, new = original.pixels(y, end), band[y - first : end - first, :width]
            share = new_share(original, y, end, margin)[..., None]
            if likeness is not None:
                seen = edited.shown[np.arange(y, end) // f].repeat(f, 1)[:, :width] & (share[..., 0] == 0)
                likeness.add(torch.from_numpy((old.astype(np.float32) - new)[seen] / 127.5))
            mixed = np.rint(share * new + (1 - share) * old).astype(np.uint8)
            yield y, np.where(share > 0, mixed, old)


def new_share(original: Original, top: int, bottom: int, margin: int) -> np.ndarray:
    """Compute how much of each pixel of some rows is new, (n, W) float32: 1 in the mask, 0 beyond the margin."""
    from scipy.ndimage import distance_transform_edt

    first = max(0, top - margin)
    around = original.mask(first, min(bottom + margin, original.size[0]))
    if not around.any():
        return np.zeros((bottom - top, original.size[1]), np.float32)
    far = distance_transform_edt(~around)[top - first : bottom - first]  # 1 beside the mask
    share: np.ndarray = np.clip(1 - far / (margin + 1), 0, 1).astype(np.float32)
    return share
