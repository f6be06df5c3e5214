"""The cost of a run: windows counted, and a batch of them timed on this machine."""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from largegen.sampling.canvas import sample_canvas
from largegen.sampling.decode import BLOCK, block_sizes
from largegen.sampling.generate import decode_bands, decoded_at_once, interpolated, resolve_defaults
from largegen.sampling.plan import plan_canvas
from largegen.sampling.rows import file_bytes
from largegen.sampling.schedulers import RowScheduler, make_scheduler
from largegen.sampling.settings import Sampling
from largegen.sampling.stored_canvas import needs_file
from largegen.sampling.strips import exchanged_bytes
from largegen.sampling.walk import BAND_VALUES
from largegen.sampling.windows import overlap_windows, plan_windows, without_background

if TYPE_CHECKING:
    from largegen.models.model import Model


@dataclass(frozen=True)
class Cost:
    """Seconds of one window."""

    call: float  # of the denoiser
    decode: float
    encode: float


def trial(model: "Model", windows: int) -> Cost:
    """Time a batch of `windows` through the denoiser, and a few through the autoencoder, blended as they are."""
    channels, side, few = model.autoencoder.channels, model.window, decoded_at_once(model)
    latents = torch.zeros(windows, channels, side, side)
    contexts = model.null_context().expand(windows, -1, -1)
    image = torch.zeros(few, 3, model.tile_px, model.tile_px)
    return Cost(
        call=_seconds(lambda: model.eps(latents, 0, contexts).cpu()) / windows,
        decode=_block_seconds(model) if model.autoencoder.reach is not None else _blended_seconds(model, few),
        encode=_seconds(lambda: model.autoencoder.encode(image).cpu()) / few,
    )


def _block_seconds(model: "Model") -> float:
    """Time a block of `decode.decode_blocks` that has neighbours on all sides, per window's worth of latents."""
    reach = model.autoencoder.reach or 0
    around = torch.zeros(1, model.autoencoder.channels, *(side + 2 * reach for side in BLOCK))
    return _seconds(lambda: model.autoencoder.decode(around, (reach,) * 4).cpu()) * model.window**2 / math.prod(BLOCK)


def _blended_seconds(model: "Model", few: int) -> float:
    """Time `few` windows side by side, decoded at once, per window."""
    decoding = resolve_defaults(Sampling(guidance=1.0), model)
    decoding = replace(decoding, decode_stride=model.window, decode_margin=0)
    canvas = torch.zeros(1, model.autoencoder.channels, model.window, model.window * few)
    return _seconds(lambda: list(decode_bands(model, canvas, decoding))) / few


def about(model: "Model", out: Path) -> dict[str, Any]:
    """Describe what runs, and where, for a dry run's report."""
    return {
        "out": str(out),
        "model": model.info.name,
        "device": str(model.device),
        "precision": str(model.dtype).removeprefix("torch."),
    }


TRIALS, TRIAL_S = 3, 1.0  # how often what is timed is done at most, unless that has taken so long
PROCESSES = (2, 4, 8)  # for which a dry run tells what they would send one another
COPIES_OF_A_BAND = 16  # of latents: their sums, what they were and become, and what is between
COPIES_OF_A_ROW = 1.6  # of decoded windows: their sums, and grey levels
WRITER_BYTES, WRITER_BYTES_PER_COLUMN = 20_000_000, 4400  # of libvips: rows of tiles of each level of a pyramid
LATER_BYTES = 130_000_000  # of code that is read after a `trial`, most of it as a process ends


def canvas_cost(model: "Model", sampling: Sampling, height: int, width: int, whole: bool = False) -> dict[str, float]:
    """Estimate what a canvas needs beside time, for a dry run's report.

    Args:
        model: whose denoiser samples; a `trial` has run.
        sampling: as `generate.resolve_defaults` gives it.
        height: of the image, in latents.
        width: of the image, in latents.
        whole: whether all of it is held in memory, however large: a method that doesn't walk it in bands.

    Returns:
        `memory_mb`, of the GPU or else of the process, and `canvas_file_mb` on disk until the image is written.
    """
    channels = model.autoencoder.channels
    plan = plan_canvas((channels, height, width), sampling, model.window)
    scheduler = make_scheduler(sampling.scheduler, model.scheduler, sampling.steps, sampling.timesteps)
    fields = 1 + len(RowScheduler(scheduler).row_fields())
    shape = (channels, *plan.around)
    values = channels * plan.around[0] * plan.around[1]
    band = values if whole else min(values, BAND_VALUES + channels * model.window * plan.around[1])
    sampled = 4 * (COPIES_OF_A_BAND * band + (0 if needs_file(plan) else 2 * fields * values))
    row = 4 * COPIES_OF_A_ROW * min(model.window, height) if sampling.decode_stride else 2 * min(BLOCK[0], height)
    decoded = 3 * row * width * model.factor**2
    written = WRITER_BYTES + WRITER_BYTES_PER_COLUMN * width * model.factor
    if model.device.type == "cpu":
        later = max(sampled, decoded + written) + LATER_BYTES
    else:
        later = 0 if needs_file(plan) else sampled  # pixels are put together on the host, and so is a canvas in a file
    return {
        "memory_mb": round((_peak_memory(model) + later) / 1e6, 1),
        "canvas_file_mb": round(file_bytes(shape, fields) / 1e6, 1) if needs_file(plan) else 0.0,
    }


def sent_mb_per_step(
    model: "Model", sampling: Sampling, height: int, width: int, skip: np.ndarray | None = None
) -> dict[str, float]:
    """Count what several processes would send one another at a step, in MB; parameters as for `count_calls`."""
    plan = plan_canvas((model.autoencoder.channels, height, width), sampling, model.window, background=skip)
    return {str(world): round(exchanged_bytes(plan, sampling.batch_size, world) / 1e6, 3) for world in PROCESSES}


def seconds_of_walk(model: "Model", sampling: Sampling) -> float:
    """Time what a window costs beside the denoiser, in seconds: its condition, sums, the scheduler's step, noise."""
    side, few = 4 * model.window, replace(sampling, steps=2, timesteps=(), guided=(), guidance=1.0, distilled=False)
    shape = (model.autoencoder.channels, side, side)
    condition_at = interpolated(model, torch.zeros(4, 4, model.info.embedding_dim + model.region_dim))

    def walk() -> None:
        sample_canvas(
            lambda latents, timestep, contexts: latents,
            condition_at,
            model.scheduler,
            shape,
            few,
            window=model.window,
            device=model.device,
        )

    return _seconds(walk) / count_calls(few, model.window, side, side)


def _seconds(compute: Callable[[], Any]) -> float:
    """Time a computation: the quickest of some, as others may want the machine, too."""
    compute()  # warms up
    taken: list[float] = []
    while not taken or (len(taken) < TRIALS and sum(taken) < TRIAL_S):
        started = time.perf_counter()
        compute()
        taken.append(time.perf_counter() - started)
    return min(taken)


def _peak_memory(model: "Model") -> int:
    """Return the most bytes that were in use at once until now: of the GPU, else of this process."""
    if model.device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(model.device))
    try:
        import resource
    except ImportError:  # Windows: the networks' weights alone
        networks = (model.unet, model.autoencoder.vae)
        return int(sum(p.numel() * p.element_size() for net in networks for p in net.parameters()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def count_calls(sampling: Sampling, window: int, height: int, width: int, skip: np.ndarray | None = None) -> int:
    """Count the windows that the denoiser sees, each twice under guidance unless it is distilled.

    Args:
        sampling: as `generate.resolve_defaults` gives it.
        window: side of the denoiser's window, in latents.
        height: of the canvas, in latents.
        width: of the canvas, in latents.
        skip: (height, width) bool, True for background.
    """
    s = sampling
    plan, _ = plan_windows(s.windows, height, width, window, s.stride, s.seed, s.steps, skip)
    return sum(len(places) * s.calls(range(step, step + 1)) for step, places in enumerate(plan))


def count_decoded(sampling: Sampling, window: int, height: int, width: int, skip: np.ndarray | None = None) -> int:
    """Count the windows that the decoder sees, or as many as make its blocks; parameters as for `count_calls`."""
    if not sampling.decode_stride:
        sizes = block_sizes(height, width, skip)
        return -(-sum(rows * cols for rows, cols in sizes) // window**2)
    places = overlap_windows(height, width, window, sampling.decode_stride)
    return len(without_background(places, window, (height, width), skip))
