"""The large-image sampler: one scheduler step at a time on a whole canvas of averaged windows [L, sec. 3].

It knows no network: whatever predicts noise is passed in as a function. `canvas_steps` is the method itself;
`sample_canvas` runs it with checks, progress and a checkpoint.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers import DDPMScheduler
from torch import Tensor
from tqdm import tqdm

from largegen.errors import InputError, LargegenError
from largegen.sampling.denoise import ConditionAt, Correct, Denoise, WindowBatches, guided, keep_contexts
from largegen.sampling.noise import INITIAL
from largegen.sampling.plan import CanvasPlan, plan_canvas
from largegen.sampling.resume import Checkpoint, ProgressSaver
from largegen.sampling.schedulers import Scheduler, clean_of, eps_of, make_scheduler
from largegen.sampling.settings import Sampling
from largegen.sampling.windows import Place, span

if TYPE_CHECKING:
    from accelerate import PartialState

log = logging.getLogger(__name__)

MAX_DEVICE_CANVAS_VALUES = 2**27  # a canvas of up to 512 MB lives on the device, a larger one on the host

# (canvas, places, (h, w) of a window, timestep) -> the predicted noise (C, h, w) of each window in turn
PredictWindows = Callable[[Tensor, list[Place], tuple[int, int], Tensor], Iterable[Tensor]]


@dataclass(frozen=True)
class Background:
    """The part of a canvas that needs no denoiser."""

    mask: np.ndarray  # (H, W) bool, True for background: windows of nothing else are not denoised
    latent: Tensor | None = None  # (C,): what the latents that no other window covers end as; None: zeros


@torch.no_grad()
def canvas_steps(
    predict: PredictWindows,
    scheduler: Scheduler,
    plan: CanvasPlan,
    canvas: Tensor,
    first: int = 0,
    *,
    eta: float = 0.0,
    background: Background | None = None,
    correct: Correct | None = None,
    correct_steps: int | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Denoise a canvas: average the windows' noise at every latent, step the whole canvas, repeat [L, sec. 3].

    Args:
        predict: the predicted noise of each window of a canvas.
        scheduler: from `make_scheduler`, with its memory where `first` is not 0.
        plan: the windows and the noise of each step.
        canvas: (1, C, H', W') float32 after `first` steps.
        first: steps that are done.
        eta: DDIM's added noise, 0 to 1.
        background: what is not denoised.
        correct: is given the predicted clean image and returns what to take for it.
        correct_steps: at how many of the steps, the first ones; None: at all.

    Yields:
        After each step, the number of steps done and the canvas.
    """
    for step in range(first, plan.steps):
        timestep = scheduler.timesteps[step]
        windows = predict(canvas, plan.places[step], plan.window, timestep)
        eps, covered = _mean(windows, plan.places[step], plan.weight(step), canvas)
        if background is not None:  # noise around its latent, which is then what remains of it
            clean = 0 if background.latent is None else background.latent.to(canvas)[:, None, None]
            eps = torch.where(covered, eps, eps_of(clean, canvas, scheduler, timestep))
        if correct is not None and (correct_steps is None or step < correct_steps):
            eps_inside, noisy = eps[plan.inside], canvas[plan.inside]
            clean = correct(clean_of(eps_inside, noisy, scheduler, timestep))
            eps[plan.inside] = eps_of(clean, noisy, scheduler, timestep)
        added = {"eta": eta, "variance_noise": plan.noise(step).to(canvas.device)} if eta else {}
        canvas = scheduler.step(eps, timestep, canvas, **added).prev_sample
        yield step + 1, canvas


def _mean(windows: Iterable[Tensor], places: list[Place], weight: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Average windows (C, h, w) at every latent of a canvas `like` (1, C, H', W').

    Windows are summed in their order, so that the result depends on neither batches nor processes.

    Returns:
        The mean (1, C, H', W'), 0 where no window is, and (H', W') bool, True where one is.
    """
    size, around = (weight.shape[0], weight.shape[1]), (like.shape[-2], like.shape[-1])
    weight = weight.to(like.device)
    total, count = torch.zeros_like(like), torch.zeros_like(like[0, 0])
    for place, window in zip(places, windows, strict=True):
        where = span(place, size, around)
        total[(0, slice(None), *where)] += window * weight
        count[where] += weight
    return total / torch.where(count > 0, count, 1), count > 0


@torch.no_grad()
def sample_canvas(
    denoise: Denoise,
    condition_at: ConditionAt,
    noise_schedule: DDPMScheduler,
    shape: tuple[int, int, int],
    sampling: Sampling,
    *,
    window: int,
    null: Tensor | None = None,
    latents: Tensor | None = None,
    last_steps: int | None = None,
    correct: Correct | None = None,
    correct_steps: int | None = None,
    background: Background | None = None,
    origin: Place = (0, 0),
    device: torch.device | str = "cpu",
    processes: "PartialState | None" = None,
    checkpoint: Checkpoint | None = None,
    progress: bool = False,
) -> Tensor:
    """Sample a canvas of latents under a condition that varies over it [L, sec. 3].

    The result depends on neither the batch size nor the number of processes, but for the rounding of `denoise` itself.

    Args:
        denoise: predicts the noise of a batch of windows, on `device`; of twice as many under guidance.
        condition_at: contexts of windows, on `device`, given their (top, left) on the canvas.
        noise_schedule: that the denoiser was trained with.
        shape: (C, H, W) of the image's latents.
        sampling: as `generate.resolve_defaults` gives it. Shifted windows lie every half window at the last step,
            and are blended there.
        window: side of the denoiser's window, in latents.
        null: (1, T, D) null condition, for guidance: see `denoise.guided`.
        latents: (1, C, H, W) to start from in place of noise.
        last_steps: take only so many of the scheduler's timesteps, from `latents` that have the noise of the first
            of them; overlapping windows only.
        correct: see `canvas_steps`.
        correct_steps: see `canvas_steps`.
        background: see `canvas_steps`.
        origin: (row, column) of the canvas in the noise field, so that a canvas can be a piece of a larger one.
        device: of the denoiser.
        processes: share the windows among accelerate's processes; each returns the whole canvas.
        checkpoint: a file for the canvas. A run that finds it there, of the same settings and fingerprint, resumes from
            it, to the same result bit for bit. The fingerprint stands for what the settings don't tell: the model,
            conditions, background, `latents` and `correct`.
        progress: show a progress bar, in the main process and on a terminal.

    Returns:
        (1, C, H, W) float32 on the CPU.

    Raises:
        InputError: for settings that do not fit together.
        LargegenError: where the denoiser gives NaN or infinite values.
    """
    sampling.check(window)
    if sampling.batch_size < 1:
        raise InputError(f"`batch_size` {sampling.batch_size}: must be 1 or more")
    if latents is not None and latents.shape != (1, *shape):
        raise InputError(f"`latents` of shape {tuple(latents.shape)} given for a canvas of {(1, *shape)}")
    steps = sampling.steps
    if last_steps is not None and (sampling.windows == "shift" or not 1 <= last_steps <= steps):
        raise InputError(f"`last_steps` {last_steps}: 1 to {steps}, and only with overlapping windows")
    scheduler = make_scheduler(sampling.scheduler, noise_schedule, steps)
    plan = plan_canvas(shape, sampling, window, origin, background.mask if background else None)
    start = first = 0 if last_steps is None else steps - last_steps
    canvas = plan.noise(INITIAL)
    if latents is not None:
        canvas[plan.inside] = latents.detach()
    canvas = canvas.to(device if canvas.numel() <= MAX_DEVICE_CANVAS_VALUES else "cpu")

    batch_size, saver = sampling.batch_size, None
    if checkpoint is not None:
        saver = ProgressSaver(checkpoint, _settings(plan, sampling, window, scheduler, first), processes)
        if saved := saver.load():
            first, canvas = saved.step, saved.canvas.to(canvas.device)
            saved.restore_memory(scheduler, canvas.device)
            batch_size = saved.batch_size if checkpoint.keep_batch_size else batch_size
            log.info("%s: resuming after step %d of %d", checkpoint.path, first, steps)

    main = processes is None or processes.is_main_process
    bar = tqdm(
        desc="sample",
        unit="window",
        total=sum(map(len, plan.places[start:])),
        initial=sum(map(len, plan.places[start:first])),
        disable=None if progress and main else True,  # None: off where stderr is no terminal
    )
    condition_at = keep_contexts(condition_at) if sampling.windows == "overlap" else condition_at
    predict = WindowBatches(
        guided(denoise, null, sampling.guidance), condition_at, batch_size, device, processes, bar.update
    )
    work = canvas_steps(
        predict,
        scheduler,
        plan,
        canvas,
        first,
        eta=sampling.eta,
        background=background,
        correct=correct,
        correct_steps=correct_steps,
    )
    with bar, saver.saved_on_interrupt() if saver else nullcontext():
        for step, canvas in work:
            check_finite(canvas, step, steps)
            if saver is not None:
                saver.save(step, batch_size, canvas, scheduler, last=step == steps)
    return canvas[plan.inside].cpu()


def _settings(plan: CanvasPlan, sampling: Sampling, window: int, scheduler: Scheduler, first: int) -> str:
    """Write the settings that a canvas depends on as JSON: a checkpoint's must be the same."""
    s, kind = sampling, type(scheduler).__name__
    how = [s.windows, s.stride, s.guidance, s.eta, s.seed, plan.origin, kind, first, plan.steps]
    return json.dumps([plan.shape, plan.around, window, *how])


def check_finite(latents: Tensor, step: int, steps: int) -> None:
    """Raise LargegenError where latents are NaN or infinite after `step` of `steps` steps."""
    if not latents.isfinite().all():
        raise LargegenError(f"step {step} of {steps} gave NaN or infinite latents; try `precision` fp32")
