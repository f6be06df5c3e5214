"""What was made put into an image: all of it inside the mask, less and less over a margin, nothing beyond."""

from collections.abc import Iterator

import numpy as np
import torch

from largegen.models.model import Model
from largegen.sampling.edit_latents import Edited
from largegen.sampling.generate import decode_bands
from largegen.sampling.original import Original
from largegen.sampling.settings import Sampling
from largegen.sampling.zoom.consistency import Likeness

BLEND_ROWS = 64  # px that are blended at once: distances take room


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
