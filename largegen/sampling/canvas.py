"""The large-image sampler: one scheduler step at a time on a whole canvas of averaged windows [L, sec. 3].

It knows no network: whatever predicts noise is passed in as a function. The method itself is in walk.py;
`sample_canvas` runs it with checks, progress and a checkpoint, in memory or in a file.
"""

import json
from typing import TYPE_CHECKING

import torch
from diffusers import DDPMScheduler
from torch import Tensor
from tqdm import tqdm

from largegen.errors import InputError
from largegen.sampling.denoise import (
    ConditionAt,
    Correct,
    Denoise,
    TakesGuidance,
    WindowBatches,
    guided,
    is_by_rows,
    keep_contexts,
)
from largegen.sampling.memory_canvas import MemoryCanvas
from largegen.sampling.plan import CanvasPlan, plan_canvas
from largegen.sampling.resume import Checkpoint
from largegen.sampling.rows import Latents
from largegen.sampling.schedulers import RowScheduler, Scheduler, make_scheduler
from largegen.sampling.settings import Sampling
from largegen.sampling.stored_canvas import StoredCanvas, is_stored, needs_file
from largegen.sampling.strips import Strips
from largegen.sampling.walk import Background, CanvasWalk
from largegen.sampling.windows import Place

if TYPE_CHECKING:
    from accelerate import PartialState


@torch.no_grad()
def sample_canvas(
    denoise: Denoise | TakesGuidance,
    condition_at: ConditionAt,
    noise_schedule: DDPMScheduler,
    shape: tuple[int, int, int],
    sampling: Sampling,
    *,
    window: int,
    null: Tensor | None = None,
    latents: Latents | None = None,
    last_steps: int | None = None,
    correct: Correct | None = None,
    correct_steps: int | None = None,
    background: Background | None = None,
    origin: Place = (0, 0),
    device: torch.device | str = "cpu",
    processes: "PartialState | None" = None,
    checkpoint: Checkpoint | None = None,
    progress: bool = False,
) -> Latents:
    """Sample a canvas of latents under a condition that varies over it [L, sec. 3].

    The result depends on neither the batch size nor the number of processes, but for the rounding of `denoise` itself.

    Args:
        denoise: predicts the noise of a batch of windows, on `device`; of twice as many under guidance, unless it
            takes that.
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
        correct: see `CanvasWalk`.
        correct_steps: see `CanvasWalk`.
        background: what is not denoised.
        origin: (row, column) of the canvas in the noise field, so that a canvas can be a piece of a larger one.
        device: of the denoiser.
        processes: share the canvas in strips among accelerate's processes.
        checkpoint: a file for the progress. A run that finds it there, of the same settings and fingerprint, resumes
            from it, to the same result bit for bit. The fingerprint stands for what the settings don't tell: the model,
            conditions, background, `latents` and `correct`. A canvas that `needs_file`, or of several processes, is
            kept in a file beside it, `rows_path`.
        progress: show a progress bar, in the main process and on a terminal.

    Returns:
        (1, C, H, W) float32 on the CPU, in all processes; of a canvas in a file, what reads it.

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
    processes = processes if processes is not None and processes.num_processes > 1 else None
    if correct is not None and not is_by_rows(correct) and processes is not None:
        raise InputError("`correct` takes the whole canvas: one process only")
    rank, world = (processes.process_index, processes.num_processes) if processes else (0, 1)
    scheduler = make_scheduler(sampling.scheduler, noise_schedule, steps, sampling.timesteps)
    plan = plan_canvas(shape, sampling, window, origin, background.mask if background else None)
    start = 0 if last_steps is None else steps - last_steps
    settings = _settings(plan, sampling, window, scheduler, start)
    kept: MemoryCanvas | StoredCanvas
    if checkpoint is not None and (processes or needs_file(plan) or is_stored(checkpoint.path)):
        kept = StoredCanvas(checkpoint, settings, plan, scheduler, sampling.batch_size, processes)
    else:
        kept = MemoryCanvas(checkpoint, settings, plan, sampling.batch_size, device, processes)
    keep_batch_size = checkpoint is not None and checkpoint.keep_batch_size
    strips = Strips(plan, kept.batch_size if keep_batch_size else sampling.batch_size, rank, world)
    first = kept.begin(strips, start, latents)
    bar = tqdm(
        desc="sample",
        unit="window",
        total=sum(map(len, plan.places[start:])) // world,
        initial=sum(map(len, plan.places[start:first])) // world,
        disable=None if progress and rank == 0 else True,  # None: off where stderr is no terminal
    )
    condition_at = keep_contexts(condition_at) if sampling.windows == "overlap" else condition_at
    walk = CanvasWalk(
        WindowBatches(
            guided(denoise, null, sampling.guidance, sampling.guided_between, sampling.rescale),
            condition_at,
            device,
            bar.update,
        ),
        RowScheduler(scheduler, kept.numbers),
        strips,
        kept.rows,
        eta=sampling.eta,
        background=background,
        correct=correct,
        correct_steps=correct_steps,
        processes=processes,
    )
    with bar, kept.saved_on_interrupt():
        for step in range(first, steps):
            walk.step(step, kept.rows_done if step == first else 0, kept.rows_finished)
            kept.step_finished(step + 1, walk.scheduler.numbers)
    return kept.result()


def _settings(plan: CanvasPlan, sampling: Sampling, window: int, scheduler: Scheduler, first: int) -> str:
    """Write the settings that a canvas depends on as JSON: a checkpoint's must be the same."""
    s, kind = sampling, type(scheduler).__name__
    how = [
        s.windows,
        s.stride,
        s.guidance,
        s.eta,
        s.seed,
        plan.origin,
        kind,
        first,
        plan.steps,
        *s.timesteps,
        *s.guided,
    ]
    how += [s.rescale] if s.rescale else []
    how += ["distilled"] if s.distilled else []
    return json.dumps([plan.shape, plan.around, window, *how])
