"""One call of the published 401 M denoiser and of its decoder: the published way of calling them against largegen's.

The published way: fp32, one window at a time, the null condition in a call of its own. Ours: windows and their null
conditions in one batch, channels-last, fp32 and bf16, and bf16 compiled. Seconds for whole images are those of a call
times the calls that an image takes: published, every quarter of a window and 50 steps; ours, shifted windows and the
default steps. Weights are random, which changes no time.
"""

import gc
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from measure import machine, options, report, run, timed
from random_model import EMBEDDING_DIM, flop_per_call, matmul_rate, random_model

from largegen.models.model import Model
from largegen.runtime.device import resolve_device
from largegen.sampling.cost import count_calls, count_decoded
from largegen.sampling.generate import resolve_defaults
from largegen.sampling.settings import Sampling

WAYS = {  # precision, guided windows in a batch (0: one call for each condition), compiled
    "published way, fp32": (torch.float32, 0, False),
    "ours, fp32": (torch.float32, 1, False),
    "ours, bf16": (torch.bfloat16, 1, False),
    "ours, bf16, compiled": (torch.bfloat16, 1, True),
}
PUBLISHED = {"steps": 50, "guidance": 4.0, "windows": "overlap"}


def guided_windows(model: Model, windows: int) -> Callable[[], None]:
    """What denoises `windows` windows under guidance once; 0: one, in two calls."""
    context = model.context(torch.randn(max(1, windows), EMBEDDING_DIM))
    null = model.null_context().expand_as(context)
    latents = torch.randn(max(1, windows), model.autoencoder.channels, model.window, model.window)
    timestep = torch.tensor(500, device=model.device)
    if not windows:
        return lambda: (model.eps(latents, timestep, context), model.eps(latents, timestep, null))
    twice = torch.cat([latents, latents]), timestep, torch.cat([null, context])
    return lambda: model.eps(*twice)


def per_window(call: Callable[[], Any], windows: int, repeats: int) -> float:
    """Median seconds per window."""
    call()  # warms up, and compiles
    return median(timed(call)[1] for _ in range(repeats)) / max(1, windows)


def main() -> None:
    parser = options(__doc__, needs_ref=False)
    parser.add_argument("--preset", default="published", choices=["published", "starter", "tiny"])
    parser.add_argument("--batch-size", type=int, default=4, help="guided windows at once, of ours")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 4096], help="px")
    args = parser.parse_args()
    device = resolve_device(args.device)
    flop, rate = flop_per_call(args.preset), matmul_rate(device)
    rows = []
    for name in args.ways:
        dtype, batched, compiled = WAYS[name]
        model = random_model(args.preset, device).to(device, dtype)
        if not batched:
            model.unet.to(memory_format=torch.contiguous_format)
            model.autoencoder.vae.to(memory_format=torch.contiguous_format)
        if compiled:
            model.unet.forward = torch.compile(model.unet.forward, dynamic=False)
            model.autoencoder.vae.decode = torch.compile(model.autoencoder.vae.decode, dynamic=False)
        windows = args.batch_size * batched
        denoised = per_window(guided_windows(model, windows), windows, args.repeats)
        latents = torch.randn(max(1, windows), model.autoencoder.channels, model.window, model.window)
        decoded = per_window(partial(model.autoencoder.decode, latents), windows, args.repeats)
        sampling = Sampling(**(PUBLISHED | {"stride": model.window // 4}) if not batched else {"guidance": 4.0})
        sampling = resolve_defaults(sampling, model)
        row = {
            "way": name,
            "guided window, s": denoised,
            "TFLOP/s": 2 * flop / denoised / 1e12,
            "of the matrix multiply's": f"{2 * flop / denoised / 1e12 / rate:.0%}",
            "decoded window, s": decoded,
        }
        for size in args.sizes:
            side = size // model.factor
            calls = count_calls(sampling, model.window, side, side) / 2
            row[f"{size} px, s"] = calls * denoised + count_decoded(sampling, model.window, side, side) * decoded
        rows.append(row)
        del model
        gc.collect()
    print(f"{flop / 1e9:.0f} GFLOP per call; bf16 matrix multiply: {rate:.3g} TFLOP/s; {machine(device)}\n")
    report(rows, args.json, machine=machine(device), preset=args.preset, matmul_tflops=rate, flop_per_call=flop)


if __name__ == "__main__":
    run(main)
