"""A large image that agrees with its guide at a low magnification: joint sampling at two scales [Z, alg. 1].

fast: draft -> guide, from the downsampled draft -> canvas under the guide
published: guide and tiles at once -> seams
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from largegen.errors import InputError, ModelError
from largegen.models.linear_decoder import fit_linear_decoder
from largegen.models.model import Model
from largegen.models.pixels import to_network
from largegen.sampling.canvas import sample_canvas
from largegen.sampling.cost import count_calls, count_decoded
from largegen.sampling.denoise import guided
from largegen.sampling.generate import decode_bands, interpolated, sample_latents
from largegen.sampling.noise import INITIAL, SEAM, noise
from largegen.sampling.patches import sample_patches
from largegen.sampling.schedulers import make_scheduler
from largegen.sampling.settings import Sampling, Zooming
from largegen.sampling.zoom.downsample import BandDownsampler, shrink, tee_bands
from largegen.sampling.zoom.guide import GuideConstraint
from largegen.sampling.zoom.joint import InnerIteration, pieces_of, sample_jointly, whole_of

GUIDE_STEP_FRACTION = 0.3  # part of the steps, the last ones, that make the guide of the downsampled draft
MAX_GUIDE_GUIDANCE = 2.0  # at most: the draft says the layout already, and more adds nothing but contrast
GUIDED_STEP_FRACTION = (
    0.4  # part of the steps, the first ones, at which the image is held to its guide: they set colour and form
)
AUTOENCODER_BATCH = 8  # windows that go through the autoencoder at once
SEAM_START_TIMESTEP = 300  # timestep that the pass against seams noises the canvas to [Z]
GUIDE_SUPERSAMPLING = 4  # the result is averaged down to so many px per px of the guide before it is resized properly


def level_of(model: Model, size: tuple[int, int]) -> int:
    """The level k whose single patch covers `size` (width, height) in px of the base. Raises InputError for any other
    size, ModelError for a model without levels."""
    if model.levels == 1:
        raise ModelError(f"model {model.info.name}: knows one magnification only; zoom needs one trained at several")
    sizes = [model.tile_px * 2**k for k in range(1, model.levels)]
    if size[0] != size[1] or size[0] not in sizes:
        raise InputError(f"--size {size[0]}x{size[1]}: this model zooms to {', '.join(map(str, sizes))} px, square")
    return 1 + sizes.index(size[0])


def zoom_latents(
    model: Model,
    features: Tensor,
    sampling: Sampling,
    zooming: Zooming,
    *,
    checkpoint: Path | None = None,
    fingerprint: str = "",
    save_every_s: float = 60.0,
    progress: bool = False,
) -> tuple[Tensor, Tensor]:
    """Latents of the guide (1, C, w, w) and of the image (1, C, k w, k w) from a k x k grid of embeddings (k, k, D).

    sampling: as generate.resolve_defaults gives it. checkpoint: a file that a killed run resumes from; fingerprint:
    stands for the model and the embeddings. Raises InputError for a grid that is no level's, and for settings that
    the model cannot be sampled with.
    """
    side = len(features)
    level = level_of(model, (features.shape[1] * model.tile_px, side * model.tile_px))
    seams = check_zooming(model, zooming)
    features = torch.as_tensor(features).to(model.device)
    saved = {
        "fingerprint": f"{fingerprint} {replace(sampling, batch_size=0)} {zooming}",
        "checkpoint": checkpoint,
        "progress": progress,
    }
    if zooming.method == "fast":
        size = (side * model.tile_px,) * 2
        settings = canvas_sampling(model, sampling, zooming)
        saved["save_every_s"] = save_every_s
        draft = sample_latents(
            model, features, *size, settings, **saved | {"checkpoint": part_checkpoint(checkpoint, "draft")}
        )
        guide = sample_patches(
            model,
            features[None],
            level,
            replace(sampling, guidance=min(sampling.guidance, MAX_GUIDE_GUIDANCE)),
            draft=model.autoencoder.encode(downsample_canvas(model, draft, sampling, side)),
            last_steps=guide_steps(sampling),
        )
        decoder = model.linear_decoder or fit_linear_decoder(model.autoencoder.decode, guide)
        constraint = GuideConstraint(decoder, guide_image(model, guide), side)
        held = {"correct": constraint, "correct_steps": round(GUIDED_STEP_FRACTION * sampling.steps)}
        canvas = sample_latents(model, features, *size, settings, **held, **saved)
        return guide, canvas
    channels, window = model.autoencoder.channels, model.window
    start = noise(sampling.seed, INITIAL, 0, 0, side * window, side * window, channels)
    tiles, guide = sample_jointly(
        guided(model.eps, model.null_context(), sampling.guidance),
        _in_parts(model.autoencoder.decode),
        _in_parts(model.autoencoder.encode),
        make_scheduler("ddim", model.scheduler, sampling.steps),
        tiles=pieces_of(start, side, side),
        guide=noise(sampling.seed, INITIAL, -window, 0, window, window, channels),
        tile_contexts=torch.cat([model.context(part).cpu() for part in features.flatten(0, 1).split(64)]),
        guide_context=model.context(features[None], level).cpu(),
        side=side,
        inner=InnerIteration(zooming.inner_steps, zooming.inner_rate, zooming.fd_step),
        batch_size=sampling.batch_size,
        **saved,
    )
    canvas = whole_of(tiles, side, side)
    if seams is None:
        return guide, canvas
    first = seams.timesteps[-zooming.seam_steps]  # noise the canvas to timestep 300 and sample it again [Z]
    added = noise(sampling.seed, SEAM, 0, 0, *canvas.shape[-2:], channels)
    saved["checkpoint"] = part_checkpoint(checkpoint, "seams")
    canvas = sample_canvas(
        model.eps,
        interpolated(model, features),
        seams,
        tuple(canvas.shape[1:]),
        window=window,
        stride=canvas_sampling(model, sampling, zooming).stride,
        null=model.null_context(),
        guidance=sampling.guidance,
        seed=sampling.seed,
        latents=seams.add_noise(canvas, added, first[None]),
        last_steps=zooming.seam_steps,
        batch_size=sampling.batch_size,
        device=model.device,
        save_every_s=save_every_s,
        **saved,
    )
    return guide, canvas


def check_zooming(model: Model, zooming: Zooming) -> DDIMScheduler | None:
    """The scheduler of the pass against seams, if there is one. Raises InputError for a number of steps that it cannot
    take, and for a precision that the published forward differences would drown in."""
    if zooming.method == "published" and zooming.inner_steps and model.dtype != torch.float32:
        raise InputError("--method published: its forward differences need --precision fp32")
    if zooming.method == "fast" or not zooming.seam_steps:
        return None
    try:
        return make_scheduler("ddim", model.scheduler, round(zooming.seam_steps * 1000 / SEAM_START_TIMESTEP))
    except InputError as error:
        raise InputError(f"--seam-steps {zooming.seam_steps}: cannot be spaced evenly; try another number") from error


def canvas_sampling(model: Model, sampling: Sampling, zooming: Zooming) -> Sampling:
    """How a canvas is sampled: under its guide, or (published) by the pass against seams."""
    if zooming.method == "fast":
        return replace(sampling, windows="shift", stride=0)
    return replace(sampling, windows="overlap", stride=max(1, model.window // 4))


def part_checkpoint(checkpoint: Path | None, part: str) -> Path | None:
    """Where a part of the work keeps its progress, `draft` or `seams`, beside that of the rest."""
    return checkpoint and checkpoint.with_name(f"{checkpoint.name}.{part}")


def guide_steps(sampling: Sampling) -> int:
    """Steps from the noised draft to the guide."""
    return max(1, round(GUIDE_STEP_FRACTION * sampling.steps))


def _in_parts(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """`function` of a batch, DECODED at a time: images take more room than latents."""
    return lambda batch: torch.cat([function(part) for part in batch.split(AUTOENCODER_BATCH)])


def count_work(model: Model, side: int, sampling: Sampling, zooming: Zooming) -> dict[str, int]:
    """What an image of side x side tiles costs before it is decoded: calls of the denoiser, decodes and encodes of one
    window. sampling: as `generate.resolve_defaults` gives it."""
    guidance = 1 if sampling.guidance in (0, 1) else 2
    length = side * model.window
    on_canvas = canvas_sampling(model, sampling, zooming)
    if zooming.method == "fast":
        calls = 2 * count_calls(on_canvas, model.window, length, length) + guidance * guide_steps(sampling)
        return {
            "denoiser_calls": calls,
            "decodes": 1 + count_decoded(sampling, model.window, length, length),
            "encodes": 1,
        }
    tiles, inner = sampling.steps * side**2, zooming.inner_steps
    seams = count_calls(replace(on_canvas, steps=zooming.seam_steps), model.window, length, length)
    return {
        "denoiser_calls": guidance * (sampling.steps + tiles * (1 + 2 * inner)) + seams,
        "decodes": sampling.steps + tiles * inner,
        "encodes": 2 * tiles * inner,
    }


def guide_image(model: Model, guide: Tensor) -> Tensor:
    """(1, 3, tile_px, tile_px) float32 in [-1, 1] on the CPU."""
    return model.autoencoder.decode(guide).cpu().clamp(-1, 1)


def downsample_canvas(model: Model, canvas: Tensor, sampling: Sampling, factor: int) -> Tensor:
    """The image of a canvas, decoded band by band, at a `factor`-th of its size: (1, 3, H, W) in [-1, 1]."""
    seen = guide_downsampler(factor)
    for _ in tee_bands(decode_bands(model, canvas, sampling), seen):
        pass
    return _resized(seen.image, factor // seen.factor)[None]


def guide_downsampler(factor: int) -> BandDownsampler:
    """Collects an image's bands for `guide_psnr` with a guide of a `factor`-th of its size."""
    return BandDownsampler(max(1, factor // GUIDE_SUPERSAMPLING))


def _resized(image: np.ndarray, factor: int) -> Tensor:
    """(H, W, 3) uint8 -> (3, H / factor, W / factor) in [-1, 1], antialiased bicubic."""
    return shrink(to_network(image)[None], factor)[0].clamp(-1, 1) if factor > 1 else to_network(image)


def guide_psnr(guide: np.ndarray, result: np.ndarray) -> float:
    """PSNR in dB between the guide (h, w, 3) uint8 and the result, some times as large, resized to it (bicubic)."""
    resized = _resized(result, len(result) // len(guide))
    error = (resized - to_network(guide)).square().mean().item() / 4
    return -10 * float(np.log10(max(error, 1e-10)))
