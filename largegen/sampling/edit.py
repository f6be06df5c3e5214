"""A part of an image made anew, with all around it as it was.

pixels -> latents (encode.py); those outside the mask stay (keep.py), the others are sampled under new embeddings ->
pixels, of which those outside the mask are replaced by the image's own, blended over a margin. All is done in bands of
rows, so that the memory does not grow with the image.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from largegen.conditioning.suitable import encoder_of
from largegen.errors import InputError
from largegen.models.encoder import Encoder, load_encoder
from largegen.models.model import Model
from largegen.models.pixels import check_image
from largegen.sampling.blend import edited_bands
from largegen.sampling.content import Content, surroundings
from largegen.sampling.edit_latents import MARGIN_PX, edit_latents, last_steps
from largegen.sampling.generate import resolve_defaults
from largegen.sampling.original import Original
from largegen.sampling.settings import Sampling

CONTEXT_TILES = 4  # on each side of a part that is made anew, whose embeddings tell what goes with it
EMBED_BATCH = 8  # tiles at once


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
    check_image(image)
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
    steps = resolve_defaults(sampling, model).steps
    if last_steps(replace(sampling, steps=steps), strength) < steps:
        sampling = replace(sampling, windows="overlap")
    return resolve_defaults(sampling, model)


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
