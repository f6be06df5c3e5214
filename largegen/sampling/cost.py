"""The cost of a run: windows counted, and a batch of them timed on this machine."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from largegen.sampling.canvas import sample_canvas
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
    """Time a batch of `windows` through the denoiser, and a few through the autoencoder."""
    latents = torch.zeros(windows, model.autoencoder.channels, model.window, model.window)
    contexts = model.null_context().expand(windows, -1, -1)
    few = latents[:4]
    image = torch.zeros(len(few), 3, model.tile_px, model.tile_px)
    return Cost(
        call=_seconds(lambda: model.eps(latents, 0, contexts).cpu()) / windows,
        decode=_seconds(lambda: model.autoencoder.decode(few).cpu()) / len(few),
        encode=_seconds(lambda: model.autoencoder.encode(image).cpu()) / len(few),
    )


def about(model: "Model", out: Path) -> dict[str, Any]:
    """Describe what runs, and where, for a dry run's report."""
    return {
        "out": str(out),
        "model": model.info.name,
        "device": str(model.device),
        "precision": str(model.dtype).removeprefix("torch."),
    }


PROCESSES = (2, 4, 8)  # for which a dry run tells what they would send one another
COPIES_OF_A_BAND = 8  # of latents: their sums, what they were and become, and what is between
COPIES_OF_A_ROW = 2.7  # of decoded windows: their sums, what is left of these for the next row, grey levels


def canvas_cost(model: "Model", sampling: Sampling, height: int, width: int) -> dict[str, float]:
    """Estimate what a canvas needs beside time, for a dry run's report.

    Args:
        model: whose denoiser samples; a `trial` has run.
        sampling: as `generate.resolve_defaults` gives it.
        height: of the image, in latents.
        width: of the image, in latents.

    Returns:
        `memory_mb`, and `canvas_file_mb` on disk until the image is written.
    """
    channels = model.autoencoder.channels
    plan = plan_canvas((channels, height, width), sampling, model.window)
    scheduler = make_scheduler(sampling.scheduler, model.scheduler, sampling.steps, sampling.timesteps)
    fields = 1 + len(RowScheduler(scheduler).row_fields())
    shape = (channels, *plan.around)
    values = channels * plan.around[0] * plan.around[1]
    band = min(values, BAND_VALUES + channels * model.window * plan.around[1])
    held = COPIES_OF_A_BAND * band + (0 if needs_file(plan) else 2 * fields * values)
    decoded = COPIES_OF_A_ROW * 3 * min(model.window, height) * width * model.factor**2
    return {
        "memory_mb": round((_peak_memory(model) + 4 * max(held, decoded)) / 1e6, 1),
        "canvas_file_mb": round(file_bytes(shape, fields) / 1e6, 1) if needs_file(plan) else 0.0,
    }


def sent_mb_per_step(
    model: "Model", sampling: Sampling, height: int, width: int, skip: np.ndarray | None = None
) -> dict[str, float]:
    """Count what several processes would send one another at a step, in MB; parameters as for `count_calls`."""
    plan = plan_canvas((model.autoencoder.channels, height, width), sampling, model.window, background=skip)
    return {str(world): round(exchanged_bytes(plan, sampling.batch_size, world) / 1e6, 3) for world in PROCESSES}


def seconds_of_walk(model: "Model", sampling: Sampling) -> float:
    """Time what a window costs beside the networks, in seconds: the sums, the scheduler's step, the noise."""
    side, few = 4 * model.window, replace(sampling, steps=2, timesteps=(), guided=(), guidance=1.0, distilled=False)
    shape = (model.autoencoder.channels, side, side)
    null = model.null_context()

    def walk() -> None:
        sample_canvas(
            lambda latents, timestep, contexts: latents,
            lambda places: null.expand(len(places), -1, -1),
            model.scheduler,
            shape,
            few,
            window=model.window,
            device=model.device,
        )

    return _seconds(walk) / count_calls(few, model.window, side, side)


def _seconds(compute: Callable[[], Any]) -> float:
    compute()  # warms up
    started = time.perf_counter()
    compute()
    return time.perf_counter() - started


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
    """Count the windows that the decoder sees; parameters as for `count_calls`."""
    places = overlap_windows(height, width, window, sampling.decode_stride)
    return len(without_background(places, window, (height, width), skip))
