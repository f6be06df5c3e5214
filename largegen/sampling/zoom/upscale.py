"""Super-resolution: an image at a low magnification as the guide of one at the finest [Z].

the image's embeddings (enlargement.py) -> the canvas under the image as a guide that stays as it is: `fast` by the
constraint of guide.py, `published` by the inner iterations of joint.py -> pixels, held to the image (consistency.py).
"""

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from largegen.models.encoder import Encoder
from largegen.models.linear_decoder import fit_linear_decoder
from largegen.models.model import Model
from largegen.models.pixels import to_network
from largegen.sampling.cost import count_calls
from largegen.sampling.denoise import guided
from largegen.sampling.generate import decode_bands, sample_latents
from largegen.sampling.noise import INITIAL, noise
from largegen.sampling.resume import Checkpoint
from largegen.sampling.rows import Latents
from largegen.sampling.schedulers import make_scheduler
from largegen.sampling.settings import UPSCALING, Inversion, Sampling, Zooming
from largegen.sampling.zoom.consistency import Likeness, hold_to_guide
from largegen.sampling.zoom.enlargement import Enlargement, encoder_for, find_embeddings, first_embeddings
from largegen.sampling.zoom.fast import CONSTRAINED_STEP_FRACTION
from largegen.sampling.zoom.guide import GuideConstraint
from largegen.sampling.zoom.joint import pieces_of, sample_jointly, whole_of
from largegen.sampling.zoom.published import CONTEXT_BATCH, check_published, in_parts, remove_seams
from largegen.sampling.zoom.zoom import resolve_zoom


def upscale(
    model: Model,
    image: np.ndarray,
    factor: int = 4,
    *,
    encoder: Encoder | None = None,
    progress: bool = False,
    **settings: Any,
) -> np.ndarray:
    """Enlarge an image in memory; for files and large sizes, `upscale_file`.

    What is finer than the image is invented by the model: it is no observation.

    Args:
        model: from `load_model`, of several magnifications.
        image: (H, W, 3) uint8, `factor` times coarser than the model's finest magnification.
        factor: 2, 4 or 8.
        encoder: the model's, where it cannot be loaded by its name.
        progress: show progress bars on a terminal.
        settings: fields of `Sampling`, `Zooming` and `Inversion`: `steps` (20), `guidance`, `seed`, `batch_size`,
            `method`, `start`, `invert_steps` and others.

    Returns:
        (H * factor, W * factor, 3) uint8.

    Raises:
        InputError: for an image, a factor or settings that cannot be.
        ModelError: for a model of one magnification.
    """
    work = Enlargement(model, np.asarray(image), factor)
    inversion = Inversion(**_taken(settings, Inversion))
    zooming = replace(UPSCALING, **_taken(settings, Zooming))
    sampling = resolve_zoom(Sampling(**settings), zooming, model)
    check_upscaling(model, zooming, inversion)
    start = first_embeddings(work, encoder_for(model, inversion, encoder), sampling.seed, progress)
    found, _ = find_embeddings(work, start, inversion, sampling, progress=progress)
    canvas = upscale_latents(work, found, sampling, zooming, progress=progress)
    return np.concatenate([band for _, band in upscaled_bands(work, canvas, sampling, progress)])


def _taken(settings: dict[str, Any], kind: Any) -> dict[str, Any]:
    """Take the fields of a dataclass out of settings."""
    return {one.name: settings.pop(one.name) for one in fields(kind) if one.name in settings}


def check_upscaling(model: Model, zooming: Zooming, inversion: Inversion) -> None:
    """Raise InputError for settings that this model cannot enlarge with."""
    inversion.check()
    zooming.check(UPSCALING)
    if zooming.method == "published":
        check_published(model, zooming)


def upscale_latents(
    work: Enlargement,
    features: Tensor,
    sampling: Sampling,
    zooming: Zooming,
    *,
    checkpoint: Checkpoint | None = None,
    progress: bool = False,
) -> Latents:
    """Sample the latents of the enlarged image under the image as its guide.

    Args:
        work: the image.
        features: (R, C, D), as `find_embeddings` gives them.
        sampling: as `generate.resolve_defaults` gives it.
        zooming: the method and its settings.
        checkpoint: what a killed run resumes from.
        progress: show a progress bar.

    Returns:
        (1, C, h, w) float32, of the canvas' size: see `canvas.sample_canvas`.
    """
    model, factor, (height, width) = work.model, work.factor, work.canvas_size
    if checkpoint is not None:
        settings = f"{replace(sampling, batch_size=0)} {zooming}"
        checkpoint = replace(checkpoint, fingerprint=f"{checkpoint.fingerprint} {settings}")
    features = features.to(model.device)
    if zooming.method == "published":
        canvas = _tiles_under(work, features, sampling, zooming, checkpoint, progress)
        return canvas[..., : height // model.factor, : width // model.factor]
    whole, across = work.whole, width // factor
    decoder = model.linear_decoder
    if decoder is None:
        patch = to_network(whole[: model.tile_px][:, : model.tile_px])[None]
        decoder = fit_linear_decoder(model.autoencoder.decode, model.autoencoder.encode(patch))
    return sample_latents(
        model,
        features,
        height,
        width,
        zooming.canvas_sampling(sampling, model.window),
        correct=GuideConstraint(
            decoder,
            lambda top, bottom: to_network(whole[top:bottom][:, :across])[None],
            factor,
            height // factor,
        ),
        correct_steps=round(CONSTRAINED_STEP_FRACTION * sampling.steps),
        checkpoint=checkpoint,
        progress=progress,
    )


def _tiles_under(
    work: Enlargement,
    features: Tensor,
    sampling: Sampling,
    zooming: Zooming,
    checkpoint: Checkpoint | None,
    progress: bool,
) -> Tensor:
    """Sample all tiles by inner iterations under their pieces of the image, and remove the seams between them [Z]."""
    model, (rows, cols) = work.model, work.tiles
    start = noise(sampling.seed, INITIAL, 0, 0, rows * model.window, cols * model.window, model.autoencoder.channels)
    tiles, _ = sample_jointly(
        guided(model.eps, model.null_context(), sampling.guidance),
        in_parts(model.autoencoder.decode),
        in_parts(model.autoencoder.encode),
        make_scheduler("ddim", model.scheduler, sampling.steps),
        tiles=pieces_of(start, rows, cols),
        guide=None,
        tile_contexts=torch.cat([model.context(part).cpu() for part in features.flatten(0, 1).split(CONTEXT_BATCH)]),
        guide_context=None,
        side=0,
        zooming=zooming,
        pieces=pieces_of(to_network(work.whole[:])[None], rows, cols),
        batch_size=sampling.batch_size,
        checkpoint=checkpoint,
        progress=progress,
    )
    canvas = whole_of(tiles, rows, cols)
    if not zooming.seam_steps:
        return canvas
    of_seams = checkpoint and checkpoint.part("seams")
    return remove_seams(model, features, canvas, sampling, zooming, of_seams, progress)


def walks_in_bands(work: Enlargement, zooming: Zooming) -> bool:
    """Tell whether latents are sampled in bands: not as published, nor where a pixel of the image spans several."""
    return zooming.method == "fast" and work.factor <= work.model.factor


def upscaled_bands(
    work: Enlargement, canvas: Latents, sampling: Sampling, progress: bool = False, likeness: Likeness | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode a canvas of `upscale_latents` in bands, cut to the enlarged image and held to it in pixels.

    likeness: see `hold_to_guide`.
    """
    height, width = work.size
    decoded = decode_bands(work.model, canvas, sampling, progress=progress)
    cut = ((y, band[: max(0, height - y), :width]) for y, band in decoded)
    return hold_to_guide(((y, band) for y, band in cut if len(band)), work.image, work.factor, likeness)


def count_upscaling(work: Enlargement, sampling: Sampling, zooming: Zooming, inversion: Inversion) -> dict[str, int]:
    """Count what an enlarged image costs before it is decoded.

    Args:
        work: the image.
        sampling: as `generate.resolve_defaults` gives it.
        zooming: the method and its settings.
        inversion: how the embeddings are found.

    Returns:
        `inversion_steps`, of one patch forwards and backwards, at most; `denoiser_calls`, `decodes` and `encodes`, of
        one window each.
    """
    model, (height, width), patches = work.model, work.canvas_size, len(work.patches)
    on_canvas = zooming.canvas_sampling(sampling, model.window)
    work_of = {"inversion_steps": patches * inversion.invert_steps}
    if zooming.method == "fast":
        calls = count_calls(on_canvas, model.window, height // model.factor, width // model.factor)
        return work_of | {"denoiser_calls": calls, "decodes": 0, "encodes": patches}
    (rows, cols), inner = work.tiles, zooming.inner_steps
    each = sampling.steps * rows * cols
    seams = replace(on_canvas, steps=zooming.seam_steps)
    of_seams = count_calls(seams, model.window, rows * model.window, cols * model.window) if zooming.seam_steps else 0
    return work_of | {
        "denoiser_calls": sampling.calls(range(1)) * each * (1 + 2 * inner) + of_seams,
        "decodes": each * inner,
        "encodes": patches + 2 * each * inner,
    }
