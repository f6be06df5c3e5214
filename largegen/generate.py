"""From a grid of embeddings to a large picture: noise -> condition -> denoise -> decode -> write [L, sec. 3]."""

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import diffusers
import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor

from largegen import __version__
from largegen.conditioning import interpolate_grid
from largegen.decode import decode_canvas
from largegen.embedding_file import EmbeddingGrid
from largegen.errors import InputError
from largegen.headers import ImageInfo
from largegen.model import Model
from largegen.noise import seed_from
from largegen.reference import Region, pure_background
from largegen.runtime import lock
from largegen.sampling import SCHEDULERS, make_scheduler, sample_canvas
from largegen.slide import Georeference
from largegen.windows import overlap_windows, shift_windows
from largegen.writers import check_output, write_image


@dataclass(frozen=True)
class Sampling:
    """How a canvas is sampled. The defaults are the cheapest setting without a loss, see the README's table."""

    steps: int = 20  # of the scheduler
    guidance: float = 2.0  # eps_null + guidance * (eps_cond - eps_null)
    eta: float = 0.0  # DDIM's added noise, 0 to 1
    scheduler: str = "ddim"  # ddim, dpm++ or unipc
    windows: str = "shift"  # overlap or shift
    stride: int = 0  # latents between overlapping windows; 0: half a window
    decode_stride: int = 0  # latents between decoded windows; 0: three quarters of a window
    batch_size: int = 0  # windows at once; 0: what suits the device
    seed: int = 0

    def check(self) -> None:
        """Raise an InputError for a setting that no model could be sampled with."""
        if self.scheduler not in SCHEDULERS:
            raise InputError(f"--scheduler {self.scheduler}: use one of {', '.join(SCHEDULERS)}")
        if self.windows not in ("overlap", "shift"):
            raise InputError(f"--windows {self.windows}: use overlap or shift")
        if not 0 <= self.eta <= 1 or (self.eta and self.scheduler != "ddim"):
            raise InputError(f"--eta {self.eta}: between 0 and 1, and 0 for any scheduler but ddim")
        if not 1 <= self.steps <= 1000:
            raise InputError(f"--steps {self.steps}: must be between 1 and 1000")


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

    embeddings: (R, C, D), one for each tile of `model.tile_px` pixels. size: side or (width, height) in px, by default
    all of the grid. latents: (1, C, H, W) to start from in place of noise from `seed`; generator: gives the seed.
    Returns (H, W, 3) uint8, or the latents (1, C, H, W) float32 for `output="latent"`. Raises InputError for settings
    that do not fit together.
    """
    features = embeddings.features if isinstance(embeddings, EmbeddingGrid) else embeddings
    features = torch.as_tensor(features, dtype=torch.float32)
    rows, cols = features.shape[:2]
    size = (cols * model.tile_px, rows * model.tile_px) if size is None else size
    width, height = (size, size) if isinstance(size, int) else size
    if output not in ("image", "latent"):
        raise InputError(f"output {output!r}: use image or latent")
    if min(width, height) <= 0 or width % model.factor or height % model.factor:
        raise InputError(f"size {width}x{height}: sides must be positive multiples of {model.factor}")
    if width > cols * model.tile_px or height > rows * model.tile_px:
        raise InputError(f"size {width}x{height}: the embeddings cover {cols * model.tile_px}x{rows * model.tile_px}")
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
    canvas = sample_latents(model, features, height, width, sampling, latents=latents, progress=progress)
    if output == "latent":
        return canvas
    return np.concatenate([band for _, band in _decode(model, canvas, sampling, progress=progress)])


def sample_latents(
    model: Model, features: Tensor, height: int, width: int, sampling: Sampling, **options: Any
) -> Tensor:
    """Sample the latents (1, C, H/f, W/f) of a picture of height x width px from embeddings (R, C, D).

    options: further arguments of sampling.sample_canvas.
    """
    features = features.to(model.device)

    def condition_at(places: list[tuple[int, int]]) -> Tensor:
        y, x = (torch.tensor(places, dtype=torch.float64, device=model.device) / model.window).T
        return model.context(interpolate_grid(features, y, x))

    return sample_canvas(
        model.eps,
        condition_at,
        make_scheduler(sampling.scheduler, model.scheduler, sampling.steps),
        (model.autoencoder.channels, height // model.factor, width // model.factor),
        window=model.window,
        windows=sampling.windows,
        stride=sampling.stride or model.window // 2,
        null=model.null_context(),
        guidance=sampling.guidance,
        eta=sampling.eta,
        seed=sampling.seed,
        batch_size=sampling.batch_size or auto_batch_size(model),
        device=model.device,
        **options,
    )


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
    return int(min(64, max(1, free // 2 // per_window)))


def _decode(
    model: Model, canvas: Tensor, sampling: Sampling, skip=None, colour=(255, 255, 255), progress: bool = False
) -> Iterator[tuple[int, np.ndarray]]:
    return decode_canvas(
        model.autoencoder.decode,
        canvas,
        factor=model.factor,
        window=model.window,
        stride=sampling.decode_stride or 3 * model.window // 4,
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
    picture. Under several processes each samples its share of the windows and the first one writes. Raises
    OutputError, InputError and LockedError.
    """
    processes = PartialState(cpu=model.device.type == "cpu")
    main = processes.is_main_process
    with lock(out) if main else nullcontext():
        check_output(out, overwrite, (region.width, region.height))
        started = time.perf_counter()
        height, width = region.height // model.factor, region.width // model.factor
        colour = tuple(grid.source["background"])
        skip = pure_background(grid, height, width, model.window) if region.full else None
        partial = out.with_name(f".{out.name}.partial")
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
            fingerprint=_fingerprint(model, grid, region),
            save_every_s=save_every_s,
            progress=progress,
        )
        sampled = time.perf_counter()
        report = {
            "out": str(out),
            "width": region.width,
            "height": region.height,
            "denoiser_calls": count_calls(sampling, model.window, height, width, skip),
            "sample_seconds": round(sampled - started, 2),
        }
        if main:
            bands = _decode(model, canvas, sampling, skip, colour, progress)
            write_image(out, bands, image_info(model, grid, region, sampling, command))
            partial.unlink(missing_ok=True)
        processes.wait_for_everyone()
        return {**report, "decode_seconds": round(time.perf_counter() - sampled, 2)}


def _flat_latent(model: Model, colour: tuple[int, int, int]) -> Tensor:
    """The latent (C,) of a picture of one colour."""
    flat = torch.tensor(colour).float()[None, :, None, None] / 127.5 - 1
    return model.autoencoder.encode(flat.expand(1, 3, model.tile_px, model.tile_px)).mean((0, 2, 3))


def _fingerprint(model: Model, grid: EmbeddingGrid, region: Region) -> str:
    """Stands for all that the latents depend on beside the sampling's settings."""
    digest = hashlib.sha256(grid.features.tobytes() + grid.tissue.tobytes())
    weights = [float(p.double().sum()) for net in (model.unet, model.conditioner) for p in net.parameters()]
    digest.update(json.dumps([asdict(region), dict(model.scheduler.config), weights], default=str).encode())
    return f"{digest.hexdigest()} {model.dtype} {model.device.type}"


def count_calls(sampling: Sampling, window: int, height: int, width: int, skip: np.ndarray | None = None) -> int:
    """How many windows the denoiser sees for a canvas of height x width latents; guidance doubles them."""
    stride = sampling.stride or window // 2
    h, w = min(window, height), min(window, width)
    calls = 0
    for step in range(sampling.steps):
        if sampling.windows == "overlap":
            places = overlap_windows(height, width, window, stride)
        else:
            places = shift_windows(height, width, window, sampling.seed, step)
        calls += sum(skip is None or not skip[y : y + h, x : x + w].all() for y, x in places)
    return calls * (1 if sampling.guidance in (0, 1) else 2)


def image_info(model: Model, grid: EmbeddingGrid, region: Region, sampling: Sampling, command: str) -> ImageInfo:
    """What the picture says of itself: resolution and place as its reference's, and all that made it."""
    source, scale = grid.source, grid.downsample
    place = None
    if source["crs"]:
        a, b, c, d, e, f = source["transform"]
        x, y = grid.origin_xy
        transform = (a * scale, b * scale, a * x + b * y + c, d * scale, e * scale, d * x + e * y + f)
        place = Georeference(source["crs"], transform)
    info = model.info
    return ImageInfo(
        width=region.width,
        height=region.height,
        mpp=source["mpp"] and source["mpp"] * scale,
        gsd_m=source["gsd_m"] and source["gsd_m"] * scale,
        georeference=place,
        description=f"synthetic image by largegen {__version__}, after {source['name']}",
        provenance={
            "command": command,
            "model": info["name"],
            "model_licence": info["licence"],
            "encoder": grid.encoder,
            "encoder_licence": grid.licence,
            "licence": " and ".join(sorted({info["licence"], grid.licence})),
            "reference": source["name"],
            "reference_xy": list(grid.origin_xy),
            "sampling": asdict(sampling),
            "precision": str(model.dtype).removeprefix("torch."),
            "versions": {"largegen": __version__, "torch": torch.__version__, "diffusers": diffusers.__version__},
        },
    )
