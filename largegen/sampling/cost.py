"""The cost of a run: windows counted, and a batch of them timed on this machine."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from largegen.sampling.settings import Sampling
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


def memory_mb(model: "Model", height: int, width: int) -> float:
    """Estimate the memory of a canvas of height x width latents, in MB, beside what a trial took at its peak."""
    return round((_peak_memory(model) + 6 * 4 * model.autoencoder.channels * height * width) / 1e6, 1)


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
    """Count the windows that the denoiser sees, each twice under guidance.

    Args:
        sampling: as `generate.resolve_defaults` gives it.
        window: side of the denoiser's window, in latents.
        height: of the canvas, in latents.
        width: of the canvas, in latents.
        skip: (height, width) bool, True for background.
    """
    s = sampling
    plan, _ = plan_windows(s.windows, height, width, window, s.stride, s.seed, s.steps, skip)
    return sum(map(len, plan)) * (1 if sampling.guidance in (0, 1) else 2)


def count_decoded(sampling: Sampling, window: int, height: int, width: int, skip: np.ndarray | None = None) -> int:
    """Count the windows that the decoder sees; parameters as for `count_calls`."""
    places = overlap_windows(height, width, window, sampling.decode_stride)
    return len(without_background(places, window, (height, width), skip))
