"""The published way to an image that agrees with its guide: guide and tiles at once -> seams [Z, alg. 1]."""

from dataclasses import replace

import torch
from torch import Tensor

from largegen.errors import InputError
from largegen.models.model import Model
from largegen.sampling.canvas import sample_canvas
from largegen.sampling.denoise import guided
from largegen.sampling.generate import interpolated
from largegen.sampling.noise import INITIAL, SEAM, noise
from largegen.sampling.resume import Checkpoint
from largegen.sampling.rows import in_memory
from largegen.sampling.schedulers import make_scheduler
from largegen.sampling.settings import Sampling, Zooming
from largegen.sampling.zoom.joint import Transcode, pieces_of, sample_jointly, whole_of

AUTOENCODER_BATCH = 8  # windows that go through the autoencoder at once: images take more room than latents
CONTEXT_BATCH = 64  # embeddings that go through the conditioner at once
SEAM_START_TIMESTEP = 300  # that the pass against seams noises the canvas to [Z]


def zoom_published(
    model: Model,
    features: Tensor,
    level: int,
    sampling: Sampling,
    zooming: Zooming,
    *,
    checkpoint: Checkpoint | None = None,
    progress: bool = False,
) -> tuple[Tensor, Tensor]:
    """Sample a guide and tiles at once, and then remove the seams between the tiles; this has a checkpoint of its own.

    Takes and returns what `zoom.zoom_latents` does, with the features on the model's device, and with the level whose
    single patch shows the whole image: 2^level tiles a side.
    """
    side, window, channels = len(features), model.window, model.autoencoder.channels
    start = noise(sampling.seed, INITIAL, 0, 0, side * window, side * window, channels)
    tiles, guide = sample_jointly(
        guided(model.eps, model.null_context(), sampling.guidance),
        in_parts(model.autoencoder.decode),
        in_parts(model.autoencoder.encode),
        make_scheduler("ddim", model.scheduler, sampling.steps),
        tiles=pieces_of(start, side, side),
        guide=noise(sampling.seed, INITIAL, -window, 0, window, window, channels),
        tile_contexts=torch.cat([model.context(part).cpu() for part in features.flatten(0, 1).split(CONTEXT_BATCH)]),
        guide_context=model.context(features[None], level).cpu(),
        side=side,
        zooming=zooming,
        batch_size=sampling.batch_size,
        checkpoint=checkpoint,
        progress=progress,
    )
    canvas = whole_of(tiles, side, side)
    if zooming.seam_steps:
        of_seams = checkpoint and checkpoint.part("seams")
        canvas = remove_seams(model, features, canvas, sampling, zooming, of_seams, progress)
    return guide, canvas


def remove_seams(
    model: Model,
    features: Tensor,
    canvas: Tensor,
    sampling: Sampling,
    zooming: Zooming,
    checkpoint: Checkpoint | None = None,
    progress: bool = False,
) -> Tensor:
    """Noise a canvas (1, C, H, W) to timestep 300 and sample it again with overlapping windows [Z]."""
    steps = seam_schedule_steps(zooming)
    scheduler = make_scheduler("ddim", model.scheduler, steps)
    first = scheduler.timesteps[-zooming.seam_steps]
    added = noise(sampling.seed, SEAM, 0, 0, canvas.shape[-2], canvas.shape[-1], canvas.shape[1])
    on_canvas = zooming.canvas_sampling(sampling, model.window)
    latents = sample_canvas(
        model.eps,
        interpolated(model, features),
        model.scheduler,
        (canvas.shape[1], canvas.shape[2], canvas.shape[3]),
        replace(on_canvas, scheduler="ddim", steps=steps, eta=0.0),
        window=model.window,
        null=model.null_context(),
        latents=scheduler.add_noise(canvas, added, first[None]),
        last_steps=zooming.seam_steps,
        device=model.device,
        checkpoint=checkpoint,
        progress=progress,
    )
    return in_memory(latents)


def seam_schedule_steps(zooming: Zooming) -> int:
    """Return the number of steps from pure noise of which the pass against seams takes the last `seam_steps`."""
    return round(zooming.seam_steps * 1000 / SEAM_START_TIMESTEP)


def check_published(model: Model, zooming: Zooming) -> None:
    """Raise InputError for a precision that the forward differences would drown in, or seam steps that cannot be."""
    if zooming.inner_steps and model.dtype != torch.float32:
        raise InputError("`method` published: its forward differences need `precision` fp32")
    if zooming.seam_steps:
        try:
            make_scheduler("ddim", model.scheduler, seam_schedule_steps(zooming))
        except InputError as error:
            message = f"`seam_steps` {zooming.seam_steps}: cannot be spaced evenly; try another number"
            raise InputError(message) from error


def in_parts(function: Transcode) -> Transcode:
    """Make `function` take AUTOENCODER_BATCH samples of a batch at a time."""
    return lambda batch: torch.cat([function(part) for part in batch.split(AUTOENCODER_BATCH)])
