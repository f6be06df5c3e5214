"""A large picture that agrees with its guide at a low magnification: joint sampling at two scales [Z, alg. 1].

guide -> tiles under the guide -> (seams) -> decode -> write
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from largegen.dataset import to_network, to_pictures
from largegen.embedding_file import EmbeddingGrid
from largegen.errors import InputError, ModelError
from largegen.generation import (
    claim,
    count_calls,
    decode_bands,
    effective,
    fingerprint_of,
    interpolated,
    sample_latents,
)
from largegen.guide import GuideConstraint, LinearDecoder, fit_linear_decoder
from largegen.joint import InnerIteration, canvas_of_tiles, sample_jointly, shrink, tiles_of_canvas
from largegen.model import Model
from largegen.noise import INITIAL, SEAM, noise
from largegen.provenance import image_info
from largegen.reference import Reference, Region
from largegen.regions import MIN_TISSUE
from largegen.sampling import guided, make_scheduler, sample_canvas
from largegen.settings import Sampling, Zooming
from largegen.shrink import Shrunk, watching
from largegen.writers import write_image

SEAM_START = 300  # timestep that the pass against seams noises the canvas to [Z]
NEARLY = 4  # the result is averaged down to so many px per px of the guide before it is resized properly


def level_of(model: Model, size: tuple[int, int]) -> int:
    """The level k whose single patch covers `size` (width, height) in px of the base. Raises InputError for any other
    size, ModelError for a model without levels."""
    if model.levels == 1:
        raise ModelError(f"model {model.info['name']}: knows one magnification only; zoom needs one trained at several")
    sizes = [model.tile_px * 2**k for k in range(1, model.levels)]
    if size[0] != size[1] or size[0] not in sizes:
        raise InputError(f"--size {size[0]}x{size[1]}: this model zooms to {', '.join(map(str, sizes))} px, square")
    return 1 + sizes.index(size[0])


def sample_guide(model: Model, features: Tensor, level: int, sampling: Sampling, *, place: int = 1) -> Tensor:
    """One patch (1, C, w, w) float32 at `level` under a grid of base embeddings (h, w, D).

    place: tells apart the noise of several patches, which lies left of that of any canvas.
    """
    context = model.context(torch.as_tensor(features)[None], level)
    return sample_canvas(
        model.eps,
        lambda places: context.expand(len(places), -1, -1),
        make_scheduler(sampling.scheduler, model.scheduler, sampling.steps),
        (model.autoencoder.channels, model.window, model.window),
        window=model.window,
        null=model.null_context(),
        guidance=sampling.guidance,
        eta=sampling.eta,
        seed=sampling.seed,
        origin=(0, -place * model.window),
        batch_size=1,
        device=model.device,
    )


def choose_regions(tissue: np.ndarray, level: int, count: int, seed: int) -> list[tuple[int, int]]:
    """First tiles (row, col) of `count` squares of 2^level tiles on a grid (rows, cols) bool, at random from the seed.

    Squares hold at least MIN_TISSUE of tissue, or as much as any does; they may stick out of the grid, as they do in
    training. Where there are fewer places, they are drawn several times.
    """
    side = 2**level
    reach = side - 1
    integral = np.pad(np.pad(tissue, reach).astype(int), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    held = integral[side:, side:] - integral[:-side, side:] - integral[side:, :-side] + integral[:-side, :-side]
    places = np.argwhere(held >= min(max(1, MIN_TISSUE * side**2), held.max())) - reach
    rng = np.random.default_rng(seed % 2**64)
    rounds = [rng.permutation(len(places)) for _ in range(-(-count // len(places)))]
    return [tuple(places[n].tolist()) for n in np.concatenate(rounds)[:count]]


def grid_at(reference: Reference, place: tuple[int, int], level: int, tile_px: int) -> EmbeddingGrid:
    """The 2^level x 2^level embeddings from tile `place` on; what lies off the reference has the background's."""
    (top, left), side = place, 2**level
    (first_row, last_row), (first_col, last_col) = (
        (max(start, 0), min(start + side, size))
        for start, size in zip((top, left), reference.tissue.shape, strict=True)
    )
    rows, cols = last_row - first_row, last_col - first_col
    grid = reference.grid(Region(cols * tile_px, rows * tile_px, first_row, first_col, rows, cols, full=False))
    features = np.tile(grid.background, (side, side, 1))
    features[first_row - top : last_row - top, first_col - left : last_col - left] = grid.features
    return replace(grid, features=features)


def sample_patches(
    model: Model, grids: Sequence[EmbeddingGrid], level: int, sampling: Sampling, *, progress: bool = False
) -> np.ndarray:
    """One patch at `level` for each grid of 2^level x 2^level embeddings: (N, tile_px, tile_px, 3) uint8."""
    patches = []
    for number, grid in enumerate(tqdm(grids, "sample", unit="patch", disable=None if progress else True)):
        guide = sample_guide(model, torch.from_numpy(grid.features), level, sampling, place=1 + number)
        patches.append(to_pictures(guide_picture(model, guide))[0])
    return np.stack(patches)


def zoom_latents(
    model: Model,
    features: Tensor,
    sampling: Sampling,
    zooming: Zooming,
    *,
    checkpoint: Path | None = None,
    fingerprint: str = "",
    progress: bool = False,
) -> tuple[Tensor, Tensor]:
    """Latents of the guide (1, C, w, w) and of the picture (1, C, k w, k w) from a k x k grid of embeddings (k, k, D).

    sampling, zooming: as `generation.effective` and the command line give them; checkpoint: a file that a killed run
    goes on from. Raises InputError for a grid that is no level's.
    """
    side = len(features)
    level = level_of(model, (features.shape[1] * model.tile_px, side * model.tile_px))
    features = torch.as_tensor(features).to(model.device)
    options = {"checkpoint": checkpoint, "progress": progress}
    if zooming.method == "fast":
        guide = sample_guide(model, features, level, sampling)
        constraint = GuideConstraint(_linear_decoder(model, guide), guide_picture(model, guide), side)
        settings = replace(sampling, windows="shift", stride=0)
        length = side * model.tile_px
        canvas = sample_latents(
            model, features, length, length, settings, correct=constraint, fingerprint=fingerprint, **options
        )
        return guide, canvas
    scheduler = make_scheduler("ddim", model.scheduler, sampling.steps)
    channels, window = model.autoencoder.channels, model.window
    tiles, guide = sample_jointly(
        guided(model.eps, model.null_context(), sampling.guidance),
        model.autoencoder.decode,
        model.autoencoder.encode,
        scheduler,
        tiles=tiles_of_canvas(noise(sampling.seed, INITIAL, 0, 0, side * window, side * window, channels), window),
        guide=noise(sampling.seed, INITIAL, 0, -window, window, window, channels),
        tile_contexts=model.context(features.flatten(0, 1)).cpu(),
        guide_context=model.context(features[None], level).cpu(),
        side=side,
        inner=InnerIteration(zooming.inner_steps, zooming.inner_rate, zooming.fd_step),
        batch_size=sampling.batch_size,
        fingerprint=fingerprint,
        **options,
    )
    canvas = canvas_of_tiles(tiles, side, side)
    if zooming.seam_steps:
        options["checkpoint"] = checkpoint and checkpoint.with_name(f"{checkpoint.name}.seams")
        canvas = _without_seams(model, features, canvas, sampling, zooming.seam_steps, fingerprint, options)
    return guide, canvas


def count_work(model: Model, side: int, sampling: Sampling, zooming: Zooming) -> dict[str, int]:
    """What a picture of side x side tiles costs before it is decoded: calls of the denoiser, decodes and encodes of one
    window. sampling: as `generation.effective` gives it."""
    guidance = 1 if sampling.guidance in (0, 1) else 2
    guide, length = guidance * sampling.steps, side * model.window
    if zooming.method == "fast":
        canvas = count_calls(replace(sampling, windows="shift", stride=0), model.window, length, length)
        return {"denoiser_calls": guide + canvas, "decodes": 1, "encodes": 0}
    tiles, inner = sampling.steps * side**2, zooming.inner_steps
    seams = replace(sampling, windows="overlap", stride=max(1, model.window // 4), steps=zooming.seam_steps)
    return {
        "denoiser_calls": guide
        + guidance * tiles * (1 + 2 * inner)
        + (count_calls(seams, model.window, length, length) if zooming.seam_steps else 0),
        "decodes": sampling.steps + tiles * inner,
        "encodes": 2 * tiles * inner,
    }


def _without_seams(
    model: Model, features: Tensor, canvas: Tensor, sampling: Sampling, steps: int, fingerprint: str, options: dict
) -> Tensor:
    """Noise the canvas to timestep 300 and sample it again in overlapping windows, `steps` steps [Z]."""
    scheduler = make_scheduler("ddim", model.scheduler, round(steps * 1000 / SEAM_START))
    start = scheduler.timesteps[-steps]
    added = noise(sampling.seed, SEAM, 0, 0, *canvas.shape[-2:], canvas.shape[1])
    return sample_canvas(
        model.eps,
        interpolated(model, features),
        scheduler,
        tuple(canvas.shape[1:]),
        window=model.window,
        stride=max(1, model.window // 4),
        null=model.null_context(),
        guidance=sampling.guidance,
        seed=sampling.seed,
        latents=scheduler.add_noise(canvas, added, start[None]),
        last_steps=steps,
        batch_size=sampling.batch_size,
        device=model.device,
        fingerprint=f"{fingerprint} seams",
        **options,
    )


def _linear_decoder(model: Model, guide: Tensor) -> LinearDecoder:
    """The model's own, or for a model without one that of the guide's latents."""
    return model.linear_decoder or fit_linear_decoder(model.autoencoder.decode, guide)


def guide_picture(model: Model, guide: Tensor) -> Tensor:
    """(1, 3, tile_px, tile_px) float32 in [-1, 1] on the CPU."""
    return model.autoencoder.decode(guide).cpu().clamp(-1, 1)


def guide_psnr(guide: np.ndarray, result: np.ndarray) -> float:
    """PSNR in dB between the guide (h, w, 3) uint8 and the result, some times as large, resized to it (bicubic)."""
    factor = len(result) // len(guide)
    resized = shrink(to_network(result)[None], factor)[0].clamp(-1, 1) if factor > 1 else to_network(result)
    error = (resized - to_network(guide)).square().mean().item() / 4
    return -10 * float(np.log10(max(error, 1e-10)))


def zoom_file(
    model: Model,
    grid: EmbeddingGrid,
    region: Region,
    out: Path,
    sampling: Sampling,
    zooming: Zooming,
    *,
    command: str = "",
    levels: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Make the picture of `region` and write it to `out`, its guide beside it as `<out>_guide.png`; says what was done.

    levels: also write the picture as every magnification between shows it, `<out>_10x.png` and so on. Killed, the same
    call goes on. Raises what `generation.generate_file` does.
    """
    sampling = effective(sampling, model)
    level = level_of(model, (region.width, region.height))
    stem = out.stem.removesuffix(".ome")
    guide_out = out.with_name(f"{stem}_guide.png")
    partial = out.with_name(f".{out.name}.partial")
    seams = partial.with_name(f"{partial.name}.seams")
    between = range(1, level) if levels else ()
    started = time.perf_counter()
    with ExitStack() as stack:
        claim(stack, out, overwrite, (region.width, region.height), partial, seams)
        guide, canvas = zoom_latents(
            model,
            torch.from_numpy(grid.features),
            sampling,
            zooming,
            checkpoint=partial,
            fingerprint=f"{fingerprint_of(model, grid, region)} {zooming}",
            progress=progress,
        )
        sampled = time.perf_counter()
        picture = to_pictures(guide_picture(model, guide))[0]
        seen = Shrunk(max(1, 2**level // NEARLY))
        shrunk = {k: Shrunk(2**k) for k in between}
        bands = watching(decode_bands(model, canvas, sampling, progress=progress), seen, *shrunk.values())
        info = image_info(model, grid, region, sampling, command, {"zoom": asdict(zooming)})
        write_image(out, bands, info)
        psnr = guide_psnr(picture, seen.picture)
        written = {"guide": (guide_out, level, picture)}
        written |= {
            model.level_names[k]: (out.with_name(f"{stem}_{model.level_names[k]}.png"), k, watcher.picture)
            for k, watcher in shrunk.items()
        }
        for path, k, pixels in written.values():
            write_image(path, [(0, pixels)], info.at(2**k))
        for path in (partial, seams):
            path.unlink(missing_ok=True)
    return {
        "out": str(out),
        **{name: str(path) for name, (path, *_) in written.items()},
        "width": region.width,
        "height": region.height,
        "reference_xy": list(grid.origin_xy),
        "magnification_of_the_guide": model.level_names[level],
        "guide_psnr": round(psnr, 2),
        "sample_seconds": round(sampled - started, 2),
        "decode_seconds": round(time.perf_counter() - sampled, 2),
    }
