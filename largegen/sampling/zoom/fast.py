"""The fast way to an image that agrees with its guide: draft -> guide -> canvas under the guide.

The guide is one patch, made of the downsampled draft; the canvas is then sampled under the constraint of guide.py.
"""

from dataclasses import replace

from torch import Tensor

from largegen.models.linear_decoder import fit_linear_decoder
from largegen.models.model import Model
from largegen.sampling.generate import decode_bands, sample_latents
from largegen.sampling.patches import sample_patches
from largegen.sampling.resume import Checkpoint
from largegen.sampling.rows import Latents
from largegen.sampling.settings import Sampling, Zooming
from largegen.sampling.zoom.downsample import downsample_image, guide_downsampler, tee_bands
from largegen.sampling.zoom.guide import GuideConstraint, guide_image

GUIDE_STEP_FRACTION = 0.3  # of the steps, the last ones, make the guide of the downsampled draft
MAX_GUIDE_GUIDANCE = 2.0  # the draft has the layout already, and more guidance adds nothing but contrast
CONSTRAINED_STEP_FRACTION = 0.4  # of the steps, the first ones, hold the image to its guide: they set colour and form


def zoom_fast(
    model: Model,
    features: Tensor,
    level: int,
    sampling: Sampling,
    *,
    checkpoint: Checkpoint | None = None,
    progress: bool = False,
) -> tuple[Tensor, Latents]:
    """Sample a draft, its guide, and the canvas under the guide; the draft has a checkpoint of its own.

    Takes and returns what `zoom.zoom_latents` does, with the features on the model's device, and with the level whose
    single patch shows the whole image: 2^level tiles a side.
    """
    side = len(features)
    size = (side * model.tile_px, side * model.tile_px)
    on_canvas = Zooming("fast").canvas_sampling(sampling, model.window)
    of_draft = checkpoint and checkpoint.part("draft")
    draft = sample_latents(model, features, *size, on_canvas, checkpoint=of_draft, progress=progress)
    guide = sample_patches(
        model,
        features[None],
        level,
        replace(sampling, guidance=min(sampling.guidance, MAX_GUIDE_GUIDANCE)),
        draft=model.autoencoder.encode(downsample_canvas(model, draft, sampling, side)),
        last_steps=guide_steps(sampling),
    )
    decoder = model.linear_decoder or fit_linear_decoder(model.autoencoder.decode, guide)
    canvas = sample_latents(
        model,
        features,
        *size,
        on_canvas,
        correct=GuideConstraint(decoder, guide_image(model, guide), side),
        correct_steps=round(CONSTRAINED_STEP_FRACTION * sampling.steps),
        checkpoint=checkpoint,
        progress=progress,
    )
    return guide, canvas


def guide_steps(sampling: Sampling) -> int:
    """Count the steps from the noised draft to the guide."""
    return max(1, round(GUIDE_STEP_FRACTION * sampling.steps))


def downsample_canvas(model: Model, canvas: Latents, sampling: Sampling, factor: int) -> Tensor:
    """Decode a canvas, band by band, at a `factor`-th of its size: (1, 3, H, W) float32 in [-1, 1]."""
    seen = guide_downsampler(factor)
    for _ in tee_bands(decode_bands(model, canvas, sampling), seen):
        pass
    return downsample_image(seen.image, factor // seen.factor)[None]
