"""From a grid of embeddings to a large image in memory: noise -> condition -> denoise -> decode [L, sec. 3]."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from largegen.conditioning.area import check_size
from largegen.conditioning.interpolation import interpolate_grid
from largegen.embeddings.grid import EmbeddingGrid
from largegen.errors import InputError
from largegen.models.model import Model
from largegen.models.student import StudentInfo
from largegen.sampling.canvas import sample_canvas
from largegen.sampling.decode import decode_blocks, decode_canvas
from largegen.sampling.denoise import ConditionAt, Denoise, TakesGuidance
from largegen.sampling.noise import seed_from
from largegen.sampling.rows import Latents, in_memory
from largegen.sampling.schedulers import make_scheduler
from largegen.sampling.settings import MAX_STUDENT_STEPS, STEPS, Sampling
from largegen.sampling.windows import Place


def generate(
    model: Model,
    embeddings: EmbeddingGrid | np.ndarray | Tensor,
    *,
    size: int | tuple[int, int] | None = None,
    generator: torch.Generator | None = None,
    latents: Tensor | None = None,
    output: Literal["image", "latent"] = "image",
    progress: bool = False,
    **settings: Any,
) -> np.ndarray | Tensor:
    """Make an image in memory from a grid of embeddings; for files and large sizes, `generate_file`.

    Args:
        model: from `load_model`.
        embeddings: (R, C, D), one for each tile of `model.tile_px` pixels, with that of the context region around the
            tile appended for a model that takes it (without, it counts as zero).
        size: side or (width, height) in px; None: all of the grid.
        generator: draws the seed, in place of `seed`.
        latents: (1, C, H, W) to start from in place of noise from the seed.
        output: `image` or `latent`.
        progress: show progress bars on a terminal.
        settings: fields of `Sampling`: `steps`, `guidance`, `eta`, `scheduler`, `distilled`, `windows`, `stride`,
            `batch_size`, `seed`.

    Returns:
        (H, W, 3) uint8, or the latents (1, C, H, W) float32 for `output="latent"`.

    Raises:
        InputError: for settings that do not fit together.
    """
    if isinstance(embeddings, EmbeddingGrid):
        if embeddings.tile_px != model.tile_px or embeddings.overlap_px:
            raise InputError(f"the model needs embeddings of tiles of {model.tile_px} px without overlap")
        embeddings = embeddings.features
    features = torch.as_tensor(embeddings, dtype=torch.float32)
    dims = [model.info.embedding_dim, model.info.embedding_dim + model.region_dim]
    if features.ndim != 3 or features.shape[2] not in dims:
        raise InputError(f"`embeddings` of shape {tuple(features.shape)}: must be (rows, columns, {dims[-1]})")
    if output not in ("image", "latent"):
        raise InputError(f"`output` {output!r}: use image or latent")
    covered = features.shape[1] * model.tile_px, features.shape[0] * model.tile_px
    width, height = (size, size) if isinstance(size, int) else size or covered
    check_size((width, height), model)
    if width > covered[0] or height > covered[1]:
        raise InputError(f"`size` {width}x{height}: the embeddings cover {covered[0]}x{covered[1]} px")
    if generator is not None:
        settings["seed"] = seed_from(generator)
    sampling = resolve_defaults(Sampling(**settings), model)
    canvas = in_memory(sample_latents(model, features, height, width, sampling, latents=latents, progress=progress))
    if output == "latent":
        return canvas
    return np.concatenate([band for _, band in decode_bands(model, canvas, sampling, progress=progress)])


def resolve_defaults(sampling: Sampling, model: Model, steps: int = STEPS) -> Sampling:
    """Fill in every setting whose default depends on the model; `distilled` becomes whether its student is taken.

    Args:
        sampling: settings.
        model: that is sampled.
        steps: of the model itself, by default.

    Raises:
        InputError: for settings that the model cannot be sampled with.
    """
    sampling.check(model.window)
    sampling = _with_steps(sampling, model, steps)
    reach = model.autoencoder.reach
    stride = sampling.decode_stride or (0 if reach is not None else max(1, model.window // 2))
    margin = sampling.decode_margin if sampling.decode_stride else model.window // 8 if reach is None else reach
    make_scheduler(sampling.scheduler, model.scheduler, sampling.steps, sampling.timesteps)
    return replace(
        sampling,
        stride=sampling.stride or (max(1, model.window // 2) if sampling.windows == "overlap" else 0),
        decode_stride=stride,
        decode_margin=margin,
        batch_size=sampling.batch_size or auto_batch_size(model),
    )


def _with_steps(sampling: Sampling, model: Model, steps: int) -> Sampling:
    """Choose between a model and its student, and scheduler and steps with it."""
    student, tuned = model.student_info, model.tuned
    if sampling.distilled and student and _fits(sampling, student):
        student.check_guidance(sampling.guidance)
        scheduler = student.scheduler or sampling.scheduler.replace("auto", "ddim")
        steps, own = sampling.steps or student.steps or steps, student.timesteps
        return replace(sampling, steps=steps, scheduler=scheduler, timesteps=own)
    if sampling.scheduler == "lcm":
        raise InputError("`scheduler` lcm: only for a distilled model of few steps; see `largegen distill`")
    if tuned and not sampling.steps and sampling.scheduler == "auto" and not sampling.eta:
        sampling = replace(sampling, timesteps=tuned.timesteps, guided=tuned.guided, rescale=tuned.rescale)
        return replace(sampling, steps=len(tuned.timesteps), scheduler="ddim", distilled=False)
    scheduler = sampling.scheduler.replace("auto", "ddim")
    return replace(sampling, steps=sampling.steps or steps, scheduler=scheduler, distilled=False)


def _fits(sampling: Sampling, student: StudentInfo) -> bool:
    """Tell whether a student is made for scheduler and steps that are asked for."""
    if not student.scheduler:
        return sampling.scheduler != "lcm"
    if sampling.scheduler == student.scheduler == "lcm":
        return True
    most = MAX_STUDENT_STEPS if student.scheduler == "lcm" else 0
    few = sampling.steps <= most or sampling.steps == student.steps
    return sampling.scheduler in ("auto", student.scheduler) and few and not sampling.eta


def denoiser_of(model: Model, sampling: Sampling) -> Denoise | TakesGuidance:
    """Return what predicts a model's noise: itself, or its student; `sampling`: as `resolve_defaults` gives it."""
    return model.student if sampling.distilled else model.eps


def sample_latents(
    model: Model, features: Tensor, height: int, width: int, sampling: Sampling, **options: Any
) -> Latents:
    """Sample the latents of an image from embeddings.

    Args:
        model: whose denoiser samples.
        features: (R, C, D), one embedding for each tile.
        height: of the image, in px.
        width: of the image, in px.
        sampling: as `resolve_defaults` gives it.
        options: further arguments of `canvas.sample_canvas`.

    Returns:
        (1, C, height / f, width / f) float32, f the autoencoder's factor: see `canvas.sample_canvas`.
    """
    return sample_canvas(
        denoiser_of(model, sampling),
        interpolated(model, features),
        model.scheduler,
        (model.autoencoder.channels, height // model.factor, width // model.factor),
        sampling,
        window=model.window,
        null=model.null_context(),
        device=model.device,
        **options,
    )


def interpolated(model: Model, features: Tensor) -> ConditionAt:
    """Condition windows anywhere over a grid of embeddings (R, C, D), interpolated between its points [L, sec. 3].

    The embeddings of tiles and those of the context regions around them are interpolated each by themselves.
    """
    dim = model.info.embedding_dim
    parts = [part for part in features.to(model.device).tensor_split([dim], -1) if part.shape[-1]]

    def condition_at(places: list[Place]) -> Tensor:
        y, x = (torch.tensor(places, dtype=torch.float64) / model.window).T
        return model.context(torch.cat([interpolate_grid(part, y, x) for part in parts], -1))

    return condition_at


def auto_batch_size(model: Model) -> int:
    """Choose a batch size: 8 on a CPU, where more only leave the cache; on a GPU what half its free memory holds."""
    if model.device.type != "cuda":
        return 8
    trial = torch.zeros(2, model.autoencoder.channels, model.window, model.window)
    contexts = model.null_context().expand(2, -1, -1)
    torch.cuda.reset_peak_memory_stats(model.device)
    before = torch.cuda.memory_allocated(model.device)
    model.eps(trial, 0, contexts)  # one window, twice for guidance
    per_window = max(1, torch.cuda.max_memory_allocated(model.device) - before)
    free, _ = torch.cuda.mem_get_info(model.device)
    room = int(min(64, max(1, free // 2 // per_window)))
    return 1 << room.bit_length() - 1


def decoded_at_once(model: Model) -> int:
    """Return how many windows the decoder takes at once."""
    return 4 if model.device.type == "cpu" else 8


def decode_bands(
    model: Model,
    canvas: Latents,
    sampling: Sampling,
    skip: np.ndarray | None = None,
    colour: tuple[int, int, int] = (255, 255, 255),
    between: tuple[int, int] | None = None,
    progress: bool = False,
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode a canvas with a model's decoder and the sampling's settings, as `resolve_defaults` gives them.

    See `decode.decode_canvas`, and `decode.decode_blocks` for a decoder of limited reach.
    """
    options: dict[str, Any] = {
        "factor": model.factor,
        "device": model.device,
        "skip": skip,
        "skip_colour": colour,
        "between": between,
        "progress": progress,
    }
    bands: Iterator[tuple[int, np.ndarray]]
    if sampling.decode_stride:
        options |= {"window": model.window, "stride": sampling.decode_stride, "margin": sampling.decode_margin}
        bands = decode_canvas(model.autoencoder.decode, canvas, batch_size=decoded_at_once(model), **options)
    else:
        bands = decode_blocks(model.autoencoder.decode, canvas, reach=sampling.decode_margin, **options)
    return bands
