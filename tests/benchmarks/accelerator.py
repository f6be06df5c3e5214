"""The published 401 M denoiser on a GPU: seconds, TFLOP/s, and the share of the card's own matrix multiply.

    python tests/benchmarks/accelerator.py --json figures.json           # about four minutes of an H100 or H200
    python tests/benchmarks/accelerator.py --smoke                       # the same script on a CPU, in miniature

`generate` with overlapping and shifted windows, `zoom`, the decoder, an encoder like a ViT-L, and one profile: what
is copied to and from the device, and how long it waits. Weights and embeddings are random, which changes no time. bf16,
channels-last, the denoiser as CUDA graphs. A few steps are measured; the time of all follows from the calls. What
there is no time for is left out, and said. Needs neither pyvips nor timm.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import counted, machine, options, run, table, timed
from random_model import (
    EMBEDDING_DIM,
    compile_denoiser,
    flop_per_call,
    graph_denoiser,
    matmul_rate,
    pad_denoiser,
    random_model,
)
from torch import nn

from largegen import generate
from largegen.models.denoiser import PRESETS
from largegen.models.encoder import Encoder
from largegen.models.encoder_registry import REGISTRY
from largegen.models.model import Model
from largegen.runtime.device import resolve_device
from largegen.runtime.files import write_json
from largegen.sampling.cost import count_calls
from largegen.sampling.generate import decode_bands, resolve_defaults
from largegen.sampling.settings import Sampling, Zooming
from largegen.sampling.zoom.zoom import zoom_latents

LEVELS = 5  # magnifications of the model: zoom makes images of 2 to 16 tiles a side
LIKE_AN_IMAGE = (50, 12)  # steps of which the seconds are told: the default, and the fewest that are of use
TRANSFERS = ("gpu_memcpy", "gpu_memset")
WAYS = {
    "graph": graph_denoiser,
    "compile": compile_denoiser,
    "padded": lambda model, windows: pad_denoiser(model, [windows, windows // 2], model.unet.forward),
}


class Clock:
    """What is left of the time that was given."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def left(self) -> float:
        return self.end - time.monotonic()


def sampling_speed(model: Model, sizes: list[int], steps: int, flop: int, rate: float, clock: Clock) -> Iterator[dict]:
    """Rows of `generate`, each size with overlapping and with shifted windows."""
    seconds_per_call = 0.0
    for size in sizes:
        tiles = -(-size // model.tile_px)
        embeddings = torch.randn(tiles, tiles, EMBEDDING_DIM)
        for windows in ("shift", "overlap"):
            planned = resolve_defaults(Sampling(steps=steps, windows=windows), model)
            calls = count_calls(planned, model.window, size // model.factor, size // model.factor)
            if calls * seconds_per_call > clock.left():
                yield {"what": f"generate, {windows}", "px": size, "said": "left out: no time"}
                continue
            settings = {"size": size, "windows": windows, "batch_size": planned.batch_size, "output": "latent"}
            with counted(model) as seen:
                _, seconds = timed(generate, model, embeddings, steps=steps, **settings)
            seconds_per_call = seconds / seen[0]
            yield row(f"generate, {windows}", size, seen[0], seconds, flop, rate) | {
                f"s for {n} steps": seconds_per_call * calls_of(model, size, windows, n) for n in LIKE_AN_IMAGE
            }


def calls_of(model: Model, size: int, windows: str, steps: int) -> int:
    sampling = resolve_defaults(Sampling(steps=steps, windows=windows), model)
    return count_calls(sampling, model.window, size // model.factor, size // model.factor)


def zoom_speed(model: Model, size: int, steps: int, flop: int, rate: float) -> dict:
    """The row of the quick way of `zoom`."""
    side = size // model.tile_px
    features = torch.randn(side, side, EMBEDDING_DIM)
    sampling = resolve_defaults(Sampling(steps=steps), model)
    with counted(model) as seen:
        _, seconds = timed(zoom_latents, model, features, sampling, Zooming("fast"))
    return row("zoom, fast", size, seen[0], seconds, flop, rate)


def row(what: str, size: int, calls: int, seconds: float, flop: int, rate: float) -> dict:
    speed = calls * flop / seconds / 1e12
    return {"what": what, "px": size, "calls": calls, "s": seconds, "TFLOP/s": speed, "of the multiply": speed / rate}


def decoding_speed(model: Model, size: int) -> dict:
    """The row of the decoder, from a canvas on the CPU to pixels there."""
    canvas = torch.randn(1, model.autoencoder.channels, size // model.factor, size // model.factor)
    sampling = resolve_defaults(Sampling(), model)
    _, seconds = timed(lambda: [None for _ in decode_bands(model, canvas, sampling)])
    return {"what": "decode", "px": size, "s": seconds, "Mpx/s": size**2 / seconds / 1e6}


def embedding_speed(device: torch.device, batch: int, smoke: bool) -> dict:
    """The row of an encoder of a ViT-L's size (torchvision's), from pixels on the CPU to embeddings there."""
    from torchvision.models import VisionTransformer

    layers, width = (1, 64) if smoke else (24, 1024)
    net = VisionTransformer(224, 16, layers, max(1, width // 64), width, 4 * width)
    net.heads = nn.Identity()
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    encoder = Encoder(REGISTRY["uni_v1"], net.eval().requires_grad_(False).to(device, dtype), device, dtype)
    tiles = np.random.default_rng(0).integers(0, 256, (batch, 256, 256, 3), dtype=np.uint8)
    times = 1 if smoke else 10
    encoder.encode(tiles)
    _, seconds = timed(lambda: [encoder.encode(tiles) for _ in range(times)])
    return {"what": f"embed, ViT-L, {batch} tiles at once", "s": seconds, "tiles/s": times * batch / seconds}


def whole_image(rows: list[dict], size: int) -> dict:
    """The row of an image with the default windows, sampled and decoded."""
    found = {one["what"]: one for one in rows if one.get("px") == size and "s" in one}
    sampled, decoded = found.get("generate, shift"), found.get("decode")
    if not (sampled and decoded):
        return {"what": "image", "px": size, "said": "left out: its parts were not measured"}
    return {"what": "image", "px": size} | {
        f"s for {n} steps": sampled[f"s for {n} steps"] + decoded["s"] for n in LIKE_AN_IMAGE
    }


def profiled(work: Callable[[], Any], windows: int) -> dict:
    """What a profile says of some work on `windows` windows: launches, waits, copies, and idle time."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    with profile(activities=activities) as found:
        _, seconds = timed(work)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        found.export_chrome_trace(str(path))
        events = [e for e in json.loads(path.read_text())["traceEvents"] if e.get("ph") == "X"]
    kernels = [e for e in events if e.get("cat") == "kernel"]
    copies: Counter[str] = Counter()
    for event in events:
        if event.get("cat") in TRANSFERS:
            copies[event["name"]] += event.get("args", {}).get("bytes", 0)
    names = Counter(e["name"] for e in events)
    ops = sum(e.get("cat") == "cpu_op" for e in events)
    about = {"what": "profile", "s": seconds, "windows": windows, "ops per window": ops / windows}
    about["scalars read back"] = names["aten::_local_scalar_dense"]
    if not kernels:
        return about
    return about | {
        "kernels per window": len(kernels) / windows,
        "launches per window": sum(n for name, n in names.items() if "Launch" in name) / windows,
        "waits": sum(n for name, n in names.items() if "Synchronize" in name),
        "MB copied": {name: round(size / 1e6, 2) for name, size in copies.items()},
        "idle": 1
        - covered([(e["ts"], e["ts"] + e["dur"]) for e in events if e.get("cat") in ("kernel", *TRANSFERS)])
        / (1e6 * seconds),
    }


def covered(spans: list[tuple[float, float]]) -> float:
    """The length of the union of spans."""
    total, end = 0.0, float("-inf")
    for first, last in sorted(spans):
        total += max(0.0, last - max(first, end))
        end = max(end, last)
    return total


def parse() -> argparse.Namespace:
    parser = options(__doc__, needs_ref=False)
    parser.set_defaults(device="cuda")
    parser.add_argument("--preset", default="published", choices=list(PRESETS))
    parser.add_argument("--sizes", "--size", type=int, nargs="+", default=[1024, 2048, 4096], help="px")
    parser.add_argument("--steps", type=int, default=4, help="that are measured")
    parser.add_argument("--way", choices=[*WAYS, "eager"], default="graph", help="of the denoiser")
    parser.add_argument("--seconds", type=float, default=220, help="that the measurements may take")
    parser.add_argument("--smoke", action="store_true", help="on the CPU, in miniature: whether the script runs")
    args = parser.parse_args()
    args.tiles = [2] if args.smoke else [32, 256]
    if args.smoke:
        args.device, args.preset, args.sizes, args.steps, args.way = "cpu", "tiny", [128, 256], 2, "padded"
    elif args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA GPU here: nothing measured (--smoke tries the script itself)")
    return args


def main() -> None:
    args = parse()
    clock, device = Clock(args.seconds), resolve_device(args.device)
    model, flop, rate = random_model(args.preset, device, LEVELS), flop_per_call(args.preset), matmul_rate(device)
    about = {"machine": machine(device), "preset": args.preset, "way": args.way, "GFLOP per call": flop / 1e9}
    about |= {"multiply, TFLOP/s": rate, "batch": resolve_defaults(Sampling(), model).batch_size}
    rows: list[dict] = []

    def tell(found: dict) -> None:
        rows.append(found)
        print(json.dumps(found), f"{clock.left():.0f} s left", flush=True)
        if args.json:
            write_json(args.json, {**about, "rows": rows})

    print(json.dumps(about), flush=True)
    smallest = args.sizes[0]
    tiles = torch.randn(smallest // model.tile_px, smallest // model.tile_px, EMBEDDING_DIM)
    few = {"size": smallest, "steps": 2, "output": "latent", "batch_size": about["batch"]}
    generate(model, tiles, **few)  # loads kernels and chooses among them
    with counted(model) as seen:
        _, seconds = timed(generate, model, tiles, **few)
    tell(row("generate, shift, without a graph", smallest, seen[0], seconds, flop, rate))
    if args.way != "eager":
        _, seconds = timed(WAYS[args.way], model, 2 * about["batch"])
        generate(model, tiles, **few)
        tell({"what": f"{args.way}: made", "s": seconds})
    tell(profiled(lambda: generate(model, tiles, **few), calls_of(model, smallest, "shift", 2) // 2))
    for found in sampling_speed(model, args.sizes, args.steps, flop, rate, clock):
        tell(found)
    zoomed = args.sizes[min(1, len(args.sizes) - 1)]
    others: list[tuple[str, Callable[[], dict]]] = [
        *((f"decode, {size} px", partial(decoding_speed, model, size)) for size in args.sizes),
        *((f"embed, ViT-L, {n} tiles at once", partial(embedding_speed, device, n, args.smoke)) for n in args.tiles),
        (f"zoom, fast, {zoomed} px", partial(zoom_speed, model, zoomed, args.steps, flop, rate)),
    ]
    for what, measure in others:
        tell(measure() if clock.left() > 0 else {"what": what, "said": "left out: no time"})
    for size in args.sizes:
        tell(whole_image(rows, size))
    for kind in ("generate", "decode", "embed", "zoom", "image"):
        print(f"\n{table(alike([found for found in rows if found['what'].startswith(kind)]))}")


def alike(rows: list[dict]) -> list[dict]:
    """Rows with the same keys."""
    keys = dict.fromkeys(key for found in rows for key in found)
    return [{key: found.get(key) for key in keys} for found in rows]


if __name__ == "__main__":
    run(main)
