"""The latents of a part of an image, sampled anew among those around it, which stay as they are."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from largegen.models.model import Model
from largegen.sampling.encode import encode_image
from largegen.sampling.generate import sample_latents
from largegen.sampling.keep import Keep
from largegen.sampling.noise import INITIAL, noise
from largegen.sampling.original import Original
from largegen.sampling.resume import Checkpoint
from largegen.sampling.rows import ComputedLatents, Latents, rows_of
from largegen.sampling.schedulers import make_scheduler
from largegen.sampling.settings import Sampling
from largegen.sampling.walk import Background
from largegen.sampling.windows import Place

MARGIN_PX = 32  # over which what is made is blended with what is there
FREED = 1 / 6, 2 / 3  # of the steps, after which the margin's nearest and farthest latents join what is new


def last_steps(sampling: Sampling, strength: float) -> int:
    """Count the steps that are taken."""
    return max(1, round(strength * sampling.steps))


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
        correct=Keep(known, torch.from_numpy(stay_until(new, -(-margin // f), sampling.steps))),
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


def stay_until(new: np.ndarray, margin: int, steps: int) -> np.ndarray:
    """Say of each latent from which step on it is sampled like the rest: (h, w) int16, for `Keep`.

    Those of the margin join what is new in turn, the nearest first. If they all stayed until late, a line would be left
    beside the mask; if they all went at once, nothing of what they showed.

    Args:
        new: (h, w) bool, the latents that a mask touches.
        margin: latents around them.
        steps: of the scheduler.
    """
    until = np.full(new.shape, steps, np.int16)
    for far in range(margin, 0, -1):
        first, last = FREED
        until[_around(new, far)] = round(steps * (first + (last - first) * (far - 1) / max(1, margin - 1)))
    until[new] = 0
    return until


def _around(mask: np.ndarray, reach: int) -> np.ndarray:
    """Take in what is up to `reach` rows and columns from a mask (h, w) bool."""
    from scipy.ndimage import maximum_filter1d

    grown = maximum_filter1d(mask.astype(np.uint8), 2 * reach + 1, 0, mode="constant")
    found: np.ndarray = maximum_filter1d(grown, 2 * reach + 1, 1, mode="constant").astype(bool)
    return found
