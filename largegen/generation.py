"""From a grid of embeddings to a large picture: noise -> condition -> denoise -> decode -> write [L, sec. 3]."""

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from glob import escape
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from largegen.conditioning import interpolate_grid
from largegen.decode import decode_canvas
from largegen.distributed import from_main, join, least
from largegen.embedding_file import EmbeddingGrid
from largegen.errors import InputError
from largegen.model import Model
from largegen.noise import seed_from
from largegen.provenance import image_info
from largegen.reference import Region, check_size, pure_background
from largegen.runtime import lock, remove
from largegen.sampling import ConditionAt, make_scheduler, sample_canvas
from largegen.settings import Sampling
from largegen.windows import Place, overlap_windows, plan_windows, without_background
from largegen.writers import check_output, write_image


def generate(
    model: Model,
    embeddings: EmbeddingGrid | np.ndarray | Tensor,
    *,
    size: int | tuple[int, int] | None = None,
    steps: int = Sampling.steps,
    guidance: float = Sampling.guidance,
    eta: float = Sampling.eta,
    scheduler: str = Sampling.scheduler,
    windows: str = Sampling.windows,
    stride: int = Sampling.stride,
    batch_size: int = Sampling.batch_size,
    seed: int = Sampling.seed,
    generator: torch.Generator | None = None,
    latents: Tensor | None = None,
    output: Literal["image", "latent"] = "image",
    progress: bool = False,
) -> np.ndarray | Tensor:
    """Make a picture in memory from a grid of embeddings; for files and large sizes, `generate_file`.

    embeddings: (R, C, D), one for each tile of `model.tile_px` pixels, with that of the region around the tile appended
    for a model that takes it (without, it counts as zero). size: side or (width, height) in px, by default
    all of the grid. latents: (1, C, H, W) to start from in place of noise from `seed`; generator: gives the seed.
    Returns (H, W, 3) uint8, or the latents (1, C, H, W) float32 for `output="latent"`. Raises InputError for settings
    that do not fit together.
    """
    if isinstance(embeddings, EmbeddingGrid):
        if embeddings.tile_px != model.tile_px or embeddings.overlap_px:
            raise InputError(f"the model needs embeddings of tiles of {model.tile_px} px without overlap")
        embeddings = embeddings.features
    features = torch.as_tensor(embeddings, dtype=torch.float32)
    widths = [model.info["embedding_dim"], model.info["embedding_dim"] + model.region_dim]
    if features.ndim != 3 or features.shape[2] not in widths:
        raise InputError(f"embeddings of shape {tuple(features.shape)}: must be (rows, columns, {widths[-1]})")
    if output not in ("image", "latent"):
        raise InputError(f"output {output!r}: use image or latent")
    covered = features.shape[1] * model.tile_px, features.shape[0] * model.tile_px
    width, height = (size, size) if isinstance(size, int) else size or covered
    check_size((width, height), model)
    if width > covered[0] or height > covered[1]:
        raise InputError(f"size {width}x{height}: the embeddings cover {covered[0]}x{covered[1]} px")
    sampling = Sampling(
        steps=steps,
        guidance=guidance,
        eta=eta,
        scheduler=scheduler,
        windows=windows,
        stride=stride,
        batch_size=batch_size,
        seed=seed if generator is None else seed_from(generator),
    )
    sampling = effective(sampling, model)
    canvas = sample_latents(model, features, height, width, sampling, latents=latents, progress=progress)
    if output == "latent":
        return canvas
    return np.concatenate([band for _, band in decode_bands(model, canvas, sampling, progress=progress)])


def effective(sampling: Sampling, model: Model) -> Sampling:
    """The settings with every default (0) filled in for a model. Raises InputError where they do not suit it."""
    sampling.check(model.window)
    make_scheduler(sampling.scheduler, model.scheduler, sampling.steps)
    return replace(
        sampling,
        stride=sampling.stride or (max(1, model.window // 2) if sampling.windows == "overlap" else 0),
        decode_stride=sampling.decode_stride or max(1, model.window // 2),
        decode_margin=sampling.decode_margin if sampling.decode_stride else model.window // 8,
        batch_size=sampling.batch_size or auto_batch_size(model),
    )


def sample_latents(
    model: Model, features: Tensor, height: int, width: int, sampling: Sampling, **options: Any
) -> Tensor:
    """Sample the latents (1, C, H/f, W/f) of a picture of height x width px from embeddings (R, C, D).

    sampling: as `effective` gives it. options: further arguments of sampling.sample_canvas.
    """
    return sample_canvas(
        model.eps,
        interpolated(model, features),
        make_scheduler(sampling.scheduler, model.scheduler, sampling.steps),
        (model.autoencoder.channels, height // model.factor, width // model.factor),
        window=model.window,
        windows=sampling.windows,
        stride=sampling.stride,
        null=model.null_context(),
        guidance=sampling.guidance,
        eta=sampling.eta,
        seed=sampling.seed,
        batch_size=sampling.batch_size,
        device=model.device,
        **options,
    )


def interpolated(model: Model, features: Tensor) -> ConditionAt:
    """The condition of windows anywhere over a grid of embeddings (R, C, D): interpolated between its points, those of
    the tiles and those of the regions around them each by themselves."""
    width = model.info["embedding_dim"]
    parts = [part for part in features.to(model.device).tensor_split([width], -1) if part.shape[-1]]

    def condition_at(places: list[Place]) -> Tensor:
        y, x = (torch.tensor(places, dtype=torch.float64) / model.window).T
        return model.context(torch.cat([interpolate_grid(part, y, x) for part in parts], -1))

    return condition_at


def auto_batch_size(model: Model) -> int:
    """Windows at once: few on a CPU, where more only leave the cache; on a GPU what half its free memory holds."""
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


def decode_bands(
    model: Model, canvas: Tensor, sampling: Sampling, skip=None, colour=(255, 255, 255), progress: bool = False
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode a canvas as decode.decode_canvas does, with a model's and its sampling's settings."""
    return decode_canvas(
        model.autoencoder.decode,
        canvas,
        factor=model.factor,
        window=model.window,
        stride=sampling.decode_stride,
        margin=sampling.decode_margin,
        batch_size=4 if model.device.type == "cpu" else 8,
        device=model.device,
        skip=skip,
        skip_colour=colour,
        progress=progress,
    )


def generate_file(
    model: Model,
    grid: EmbeddingGrid,
    region: Region,
    out: Path,
    sampling: Sampling,
    *,
    command: str = "",
    overwrite: bool = False,
    progress: bool = False,
    save_every_s: float = 30.0,
) -> dict[str, Any]:
    """Make the picture of `region` (whose tiles `grid` holds) and write it to `out`; returns what was done.

    The canvas is kept in `.<out>.partial` as it is sampled: the same call after a kill goes on from there, to the same
    picture. Under several processes each samples its share of the windows, and the main one keeps and writes. Raises
    InputError, LockedError while another process makes the same picture, and OutputError for a picture that exists
    already (unless `overwrite`) or a disk that refuses it.
    """
    processes = join(model.device)
    automatic = sampling.batch_size == 0
    sampling = effective(sampling, model)
    sampling = replace(sampling, batch_size=least(processes, sampling.batch_size))
    height, width = region.height // model.factor, region.width // model.factor
    colour = tuple(grid.source["background"])
    skip = pure_background(grid.tissue, model.window, height, width) if region.full else None
    partial = out.with_name(f".{out.name}.partial")
    started = time.perf_counter()
    with ExitStack() as stack:
        from_main(processes, lambda: claim(stack, out, overwrite, (region.width, region.height), partial))
        canvas = sample_latents(
            model,
            torch.from_numpy(grid.features),
            region.height,
            region.width,
            sampling,
            skip=None if skip is None else torch.from_numpy(skip),
            skip_latent=None if skip is None else _flat_latent(model, colour),
            processes=processes,
            checkpoint=partial,
            keep_batch_size=automatic,
            fingerprint=fingerprint_of(model, grid, region),
            save_every_s=save_every_s,
            progress=progress,
        )
        sampled = time.perf_counter()

        def write() -> None:
            bands = decode_bands(model, canvas, sampling, skip, colour, progress)
            write_image(out, bands, image_info(model, grid, region, sampling, command))
            partial.unlink(missing_ok=True)

        from_main(processes, write)
    return {
        "out": str(out),
        "width": region.width,
        "height": region.height,
        "reference_xy": list(grid.origin_xy),
        "denoiser_calls": count_calls(sampling, model.window, height, width, skip),
        "sample_seconds": round(sampled - started, 2),
        "decode_seconds": round(time.perf_counter() - sampled, 2),
    }


def claim(stack: ExitStack, out: Path, overwrite: bool, size: tuple[int, int], *partials: Path) -> None:
    """Lock an output for as long as `stack` lives, see that it can be written, and clear up after killed runs."""
    stack.enter_context(lock(out))
    check_output(out, overwrite, size)
    for name in (out.name, *(partial.name for partial in partials)):  # what a run left that was killed while it wrote
        for leftover in out.parent.glob(f".{escape(name)}.*.tmp*"):
            remove(leftover)


def _flat_latent(model: Model, colour: tuple[int, int, int]) -> Tensor:
    """The latent (C,) of a picture of one colour."""
    flat = torch.tensor(colour).float()[None, :, None, None] / 127.5 - 1
    return model.autoencoder.encode(flat.expand(1, 3, model.tile_px, model.tile_px)).mean((0, 2, 3))


def fingerprint_of(model: Model, grid: EmbeddingGrid, region: Region) -> str:
    """Stands for all that the latents depend on beside the sampling's settings."""
    digest = hashlib.sha256(grid.features.tobytes() + grid.tissue.tobytes())
    about = [asdict(region), grid.source["background"], dict(model.scheduler.config), str(model.dtype)]
    digest.update(json.dumps([*about, model.device.type], default=str).encode())
    linear = model.linear_decoder
    weights_of = [network.parameters() for network in (model.unet, model.conditioner, model.autoencoder.vae)]
    for parameters in [*weights_of, [linear.weight, linear.bias] if linear else []]:
        for weights in parameters:
            sample = weights.flatten()[:: max(1, weights.numel() // 1024)]
            digest.update(sample.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def count_calls(sampling: Sampling, window: int, height: int, width: int, skip: np.ndarray | None = None) -> int:
    """How many windows the denoiser sees for a canvas of height x width latents, each twice under guidance.

    sampling: as `effective` gives it; skip: (height, width) bool, True for background.
    """
    s = sampling
    plan, _ = plan_windows(s.windows, height, width, window, s.stride, s.seed, s.steps, skip)
    return sum(map(len, plan)) * (1 if sampling.guidance in (0, 1) else 2)


def count_decoded(sampling: Sampling, window: int, height: int, width: int, skip: np.ndarray | None = None) -> int:
    """How many windows the decoder sees; parameters as for `count_calls`."""
    places = overlap_windows(height, width, window, sampling.decode_stride)
    return len(without_background(places, window, (height, width), skip))
