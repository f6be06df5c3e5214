"""The large-image sampler: one scheduler step at a time on a whole canvas of averaged windows.

It knows no network: whatever predicts noise is passed in as a function.
"""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers import DDIMScheduler
from torch import Tensor
from tqdm import tqdm

from largegen.errors import InputError, LargegenError
from largegen.sampling.denoise import ConditionAt, Correct, Denoise, guided
from largegen.sampling.noise import INITIAL, noise
from largegen.sampling.resume import load_progress, restore_memory, save_progress
from largegen.sampling.schedulers import Scheduler, clean_of, eps_of
from largegen.sampling.windows import Place, plan_windows, span

if TYPE_CHECKING:
    from accelerate import PartialState

log = logging.getLogger(__name__)

DEVICE_CANVAS_VALUES = 2**27  # a canvas of up to 512 MB lives on the device, a larger one on the host
SAVE_INTERVAL_RATIO = 20  # as long as the last save took, so that a huge canvas is not saved all the time
KEPT_CONTEXT_VALUES = 2**26  # up to 256 MB of the windows' contexts are kept from step to step


@torch.no_grad()
def sample_canvas(
    denoise: Denoise,
    condition_at: ConditionAt,
    scheduler: Scheduler,
    shape: tuple[int, int, int],
    *,
    window: int,
    windows: str = "overlap",
    stride: int | None = None,
    null: Tensor | None = None,
    guidance: float = 1.0,
    eta: float = 0.0,
    seed: int = 0,
    latents: Tensor | None = None,
    last_steps: int | None = None,
    correct: Correct | None = None,
    correct_steps: int | None = None,
    origin: Place = (0, 0),
    batch_size: int = 8,
    device: torch.device | str = "cpu",
    processes: "PartialState | None" = None,
    skip: Tensor | None = None,
    skip_latent: Tensor | None = None,
    checkpoint: Path | None = None,
    fingerprint: str = "",
    save_every_s: float = 60.0,
    keep_batch_size: bool = False,
    progress: bool = False,
) -> Tensor:
    """Sample a canvas of latents under a condition that varies over it [L, sec. 3].

    At every step the windows' eps are averaged at every latent, and the scheduler steps the whole canvas.
    Returns (1, C, H, W) float32 on the CPU. Raises InputError for settings that do not fit together.

    denoise: predicts the noise of a batch of windows, on `device`; twice `batch_size` of them under guidance.
    condition_at: contexts of windows, on `device`, given their (top, left) on the canvas.
    scheduler: from `make_scheduler`. shape: (C, H, W) of the canvas. window, stride: in latents.
    windows: `overlap` every `stride` (default: a quarter), or `shift` (side by side, moved at every step; at the last
        every half window, and blended, for nothing would hide where they met).
    null, guidance: see `guided`. eta: DDIM's added noise, 0 to 1. seed: of the noise and of the moving grid.
    latents: (1, C, H, W) to start from in place of noise. last_steps: take only so many of the scheduler's timesteps,
        from `latents` that have the noise of the first of them.
    correct: is given what a step predicts for the clean canvas, and answers what to take for it, at the first
        `correct_steps` of the steps (default: at all).
    origin: (row, column) of the canvas in the noise field, so that a canvas can be a piece of a larger one.
    processes: share the windows among accelerate's processes; each returns the whole canvas.
    skip: (H, W) bool, True for background: windows of nothing else are not denoised. Latents that no other
        window covers are taken for noise around `skip_latent`, (C,) (default: 0), and end up there.
    checkpoint: a file for the canvas, written at the end and at most every `save_every_s` before, nor in more than a
        20th of the time (0: at every step). A run that finds it resumes from there, to the same result bit for bit,
        if settings and `fingerprint` are equal.
    fingerprint: stands for what the settings don't tell: model, conditions, skip, latents, correct.
    keep_batch_size: go on with the batch size of the run that wrote the checkpoint.

    Windows are summed in their order, so the result depends on neither `batch_size` nor the number of
    processes, but for the rounding of `denoise` itself.
    """
    channels, height, width = shape
    steps = len(scheduler.timesteps)
    if not 0 <= eta <= 1:
        raise InputError(f"--eta {eta}: must be between 0 and 1")
    if eta and not isinstance(scheduler, DDIMScheduler):
        raise InputError(f"--eta {eta}: only --scheduler ddim adds noise")
    if batch_size < 1:
        raise InputError(f"--batch-size {batch_size}: must be 1 or more")
    if latents is not None and latents.shape != (1, *shape):
        raise InputError(f"latents of shape {tuple(latents.shape)} given for a canvas of {(1, *shape)}")
    if windows not in ("overlap", "shift"):
        raise InputError(f"--windows {windows}: use overlap or shift")
    if last_steps is not None and (windows == "shift" or not 1 <= last_steps <= steps):
        raise InputError(f"last_steps {last_steps}: 1 to {steps}, and only with overlapping windows")
    stride = max(window // 4, 1) if stride is None else stride
    size = min(window, height), min(window, width)
    plan, around = plan_windows(windows, height, width, window, stride, seed, steps, skip)
    if windows == "overlap":
        condition_at = _remembering(condition_at)
    denoise = guided(denoise, null, guidance)

    def field(step: int) -> Tensor:
        return noise(seed, step, *origin, *around, channels)

    canvas = field(INITIAL)
    if latents is not None:
        canvas[..., :height, :width] = latents.detach()
    canvas = canvas.to(device if canvas.numel() <= DEVICE_CANVAS_VALUES else "cpu")

    scheduler.set_timesteps(steps)  # forgets an earlier run
    start = first = 0 if last_steps is None else steps - last_steps
    settings = [shape, around, window, windows, stride, guidance, eta, seed, origin, type(scheduler).__name__, first]
    fingerprint = json.dumps([*settings, steps, fingerprint])
    if checkpoint is not None and (saved := load_progress(checkpoint, fingerprint, processes)):
        first, canvas = saved["step"], saved["canvas"].to(canvas.device)
        restore_memory(scheduler, saved["memory"], canvas.device)
        batch_size = saved["batch_size"] if keep_batch_size else batch_size
        log.info("%s: resuming after step %d of %d", checkpoint, first, steps)

    main = processes is None or processes.is_main_process
    last_saved, pause = time.monotonic(), save_every_s
    bar = tqdm(
        desc="sample",
        unit="window",
        total=sum(map(len, plan[start:])),
        initial=sum(map(len, plan[start:first])),
        disable=None if progress and main else True,  # None: off where stderr is no terminal
    )
    with bar:
        for step in range(first, steps):
            timestep = scheduler.timesteps[step]

            def eps_at(latents: Tensor, places: list[Place], timestep: Tensor = timestep) -> Tensor:
                return denoise(latents.to(device), timestep, condition_at(places)).float()

            weight = _taper(size, around) if windows == "shift" and step == steps - 1 else torch.ones(size)
            eps, covered = _mean_eps(eps_at, canvas, plan[step], weight, batch_size, processes, bar)
            if skip is not None:
                clean = 0 if skip_latent is None else skip_latent.to(canvas)[:, None, None]
                eps = torch.where(covered, eps, eps_of(clean, canvas, scheduler, timestep))
            if correct is not None and (correct_steps is None or step < correct_steps):
                inside = (..., slice(height), slice(width))
                clean = correct(clean_of(eps[inside], canvas[inside], scheduler, timestep))
                eps[inside] = eps_of(clean, canvas[inside], scheduler, timestep)
            added = {"eta": eta, "variance_noise": field(step).to(canvas.device)} if eta else {}
            canvas = scheduler.step(eps, timestep, canvas, **added).prev_sample
            if not canvas.isfinite().all():
                raise LargegenError(f"step {step + 1} of {steps} gave NaN or infinite latents; try --precision fp32")
            due = step == steps - 1 or time.monotonic() - last_saved >= pause
            if checkpoint is not None and main and due:
                started = time.monotonic()
                save_progress(checkpoint, fingerprint, step + 1, batch_size, canvas, scheduler)
                last_saved = time.monotonic()
                pause = save_every_s and max(save_every_s, SAVE_INTERVAL_RATIO * (last_saved - started))
    return canvas[..., :height, :width].cpu()


def _mean_eps(
    eps_at: Callable[[Tensor, list[Place]], Tensor],
    canvas: Tensor,
    places: list[Place],
    weight: Tensor,
    batch_size: int,
    processes: "PartialState | None",
    bar: tqdm,
) -> tuple[Tensor, Tensor]:
    """Average the windows' eps at every latent: (eps, 0 where no window is; where one is, (H, W) bool).

    weight: (h, w) of a window's latents, positive. Windows that stick out go on at the other edge. In each round every
    process takes one batch, so that batches are the same for any number of processes.
    """
    rank, world = (processes.process_index, processes.num_processes) if processes else (0, 1)
    around, size, weight = tuple(canvas.shape[-2:]), tuple(weight.shape), weight.to(canvas.device)
    total, count = torch.zeros_like(canvas), torch.zeros_like(canvas[0, 0])
    for start in range(0, len(places), batch_size * world):
        whole = places[start : start + batch_size * world]
        mine = whole[rank * batch_size :][:batch_size]
        if mine:
            eps = eps_at(torch.stack([canvas[(0, slice(None), *span(place, size, around))] for place in mine]), mine)
        if world > 1:
            from accelerate.utils import gather

            padded = torch.zeros(batch_size, canvas.shape[1], *size, device=processes.device)
            if mine:
                padded[: len(mine)] = eps
            eps = gather(padded)[: len(whole)]  # only the last round's end is padding
        for place, one in zip(whole, eps.to(canvas.device), strict=True):
            where = span(place, size, around)
            total[(0, slice(None), *where)] += one * weight
            count[where] += weight
        bar.update(len(whole))
    return total / torch.where(count > 0, count, 1), count > 0


def _taper(size: tuple[int, int], around: tuple[int, int]) -> Tensor:
    """Weights (h, w) that fall to nothing at a window's border, where there are others: every half window, they add up
    to one."""
    rows, cols = (
        torch.sin(torch.pi * (torch.arange(side) + 0.5) / side).square() if ring > side else torch.ones(side)
        for side, ring in zip(size, around, strict=True)
    )
    return rows[:, None] * cols


def _remembering(condition_at: ConditionAt) -> ConditionAt:
    """`condition_at`, computed once for each batch of windows that comes back, while room lasts."""
    kept: dict[tuple[Place, ...], Tensor] = {}

    def recall(places: list[Place]) -> Tensor:
        key = tuple(places)
        if key in kept:
            return kept[key]
        contexts = condition_at(places)
        if (len(kept) + 1) * contexts.numel() <= KEPT_CONTEXT_VALUES:
            kept[key] = contexts
        return contexts

    return recall
