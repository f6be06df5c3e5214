"""What a GPU would be told to do for each window: operations counted on the CPU, by what they are for.

An operation that computes is a kernel to launch, or a few; views and allocations are none. Sizes are small and weights
random, which changes no count.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from measure import options, report, run
from random_model import EMBEDDING_DIM, random_model
from torch.utils._python_dispatch import TorchDispatchMode

from largegen.models.denoiser import PRESETS, build_denoiser
from largegen.sampling import canvas
from largegen.sampling.cost import count_calls
from largegen.sampling.generate import interpolated, resolve_defaults
from largegen.sampling.schedulers import RowScheduler
from largegen.sampling.settings import Sampling

STEP = RowScheduler.step
NO_KERNEL = ("empty", "new_empty", "detach", "alias", "_unsafe_view", "lift_fresh", "is_pinned", "_local_scalar_dense")
READ_BACK = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal")  # for which the host waits


class Counting(TorchDispatchMode):
    """Counts the operations that compute, and those for which a host waits, by the part of the work."""

    def __init__(self) -> None:
        super().__init__()
        self.part, self.kernels, self.waits = "canvas", Counter(), Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        if name in READ_BACK:
            self.waits[self.part] += 1
        if not func.is_view and not name.startswith(NO_KERNEL):
            self.kernels[self.part] += 1
        return func(*args, **(kwargs or {}))

    def as_part(self, part: str, function: Callable) -> Callable:
        def call(*given: Any) -> Any:
            before, self.part = self.part, part
            try:
                return function(*given)
            finally:
                self.part = before

        return call


def counted(batch: int, windows: str, steps: int, side: int) -> dict[str, Any]:
    """One canvas of `side` x `side` windows, under guidance."""
    model = random_model("tiny", torch.device("cpu"))
    sampling = resolve_defaults(Sampling(steps=steps, windows=windows, batch_size=batch), model)
    length = side * model.window
    shape = (model.autoencoder.channels, length, length)
    count = count_calls(sampling, model.window, length, length) // 2
    counting = Counting()
    condition_at = counting.as_part("conditions", interpolated(model, torch.randn(side, side, EMBEDDING_DIM)))
    RowScheduler.step = counting.as_part("scheduler", STEP)  # whose tables of numbers are on the host
    with counting:  # no network: that of the published size is counted by itself
        canvas.sample_canvas(
            lambda latents, timestep, context: latents,
            condition_at,
            model.scheduler,
            shape,
            sampling,
            window=model.window,
            null=model.null_context(),
        )
    canvas_kernels = counting.kernels["canvas"] + counting.kernels["scheduler"]
    waits = sum(count for part, count in counting.waits.items() if part != "scheduler")
    return {
        "windows": windows,
        "at once": batch,
        "network, per call": network_kernels(),
        "conditions, per call": counting.kernels["conditions"] * batch / count,
        "canvas, per window": canvas_kernels / count,
        "read back, per step": waits / steps,
    }


def network_kernels() -> int:
    """Of the published denoiser, made narrow, which changes no count."""
    counting, published = Counting(), PRESETS["published"]
    narrow = replace(published, channels=tuple(width // 24 for width in published.channels), norm_groups=8)
    unet = build_denoiser(narrow, 3, 16)
    given = torch.zeros(2, 3, 16, 16), torch.zeros((), dtype=torch.long), torch.zeros(2, 1, 512)
    with torch.no_grad(), counting:
        unet(*given)
    return counting.kernels["canvas"]


def main() -> None:
    args = options(__doc__, needs_ref=False).parse_args()
    rows = [counted(batch, windows, 4, 6) for windows in ("shift", "overlap") for batch in (8, 32)]
    report(rows, args.json)


if __name__ == "__main__":
    run(main)
