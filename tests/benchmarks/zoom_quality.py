"""Zoom against its guide: unconstrained tiles, the published joint sampling, and the closed form.

For each way: PSNR between the result shrunk and the guide, floating-point operations (torch's counter of one call of
each network, times the calls), seconds, a seam score at the borders of tiles or (fast) of the last step's windows,
beside the real image's there, Fréchet distance of random crops to those of the real region, and tile retrieval. With
--out the guides and the results are written as PNG.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import decode, machine, options, read_reference, run, table, timed
from PIL import Image
from quality_cost import Judge
from torch.utils.flop_counter import FlopCounterMode

from largegen import load_model
from largegen.embeddings.grid import EmbeddingGrid
from largegen.metrics.per_image.seams import seam_score, tile_borders, window_borders
from largegen.models.model import Model
from largegen.models.pixels import to_images
from largegen.runtime.files import write_json
from largegen.sampling.generate import resolve_defaults
from largegen.sampling.settings import Sampling, Zooming
from largegen.sampling.zoom.downsample import guide_psnr
from largegen.sampling.zoom.guide import guide_image
from largegen.sampling.zoom.zoom import count_work, zoom_latents

WAYS = {
    "tiles-alone": Zooming("published", inner_steps=0, seam_steps=0),
    "published-no-seam-pass": Zooming("published", seam_steps=0),
    "published": Zooming("published"),
    "fast": Zooming(),
}


def flops_of_calls(model: Model) -> dict[str, int]:
    """Floating-point operations of one window through the denoiser, the decoder and the encoder."""
    latents = torch.zeros(1, model.autoencoder.channels, model.window, model.window)
    image = torch.zeros(1, 3, model.tile_px, model.tile_px)
    calls: dict[str, Callable] = {
        "denoiser_calls": lambda: model.eps(latents, 0, model.null_context()),
        "decodes": lambda: model.autoencoder.decode(latents),
        "encodes": lambda: model.autoencoder.encode(image),
    }
    found = {}
    for name, call in calls.items():
        with FlopCounterMode(display=False) as counter:
            call()
        found[name] = counter.get_total_flops()
    return found


def measure(
    model: Model, grid: EmbeddingGrid, judge: Judge, name: str, args: argparse.Namespace, flops: dict[str, int]
) -> dict[str, Any]:
    """The figures of one way."""
    zooming = WAYS[name]
    sampling = resolve_defaults(Sampling(steps=args.steps, guidance=args.guidance, seed=args.seed), model)
    (guide, canvas), seconds = timed(
        zoom_latents, model, torch.from_numpy(grid.features), sampling, zooming, progress=True
    )
    work = count_work(model, len(grid.features), sampling, zooming)
    image, seen = decode(model, canvas), to_images(guide_image(model, guide))[0]
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        Image.fromarray(seen).save(args.out / f"{name}-guide.png")
        Image.fromarray(image).save(args.out / f"{name}.png")
    lengths = args.size, args.size, model.tile_px, model.factor
    settings = zooming.canvas_sampling(sampling, model.window)
    borders = window_borders(*lengths, settings) if name == "fast" else tile_borders(*lengths)
    figures = judge.figures(image, borders)
    return {
        "way": name,
        "PSNR with the guide, dB": f"{guide_psnr(seen, image):.2f}",
        "TFLOP": sum(work[part] * flops[part] for part in flops) / 1e12,
        "denoiser calls": work["denoiser_calls"],
        "sampling, s": seconds,
        "seam score": f"{figures['seam']:.3f}",
        "of the real image there": f"{seam_score(judge.image, *borders):.3f}",
        "Fréchet distance x 1000": figures["distance"],
        f"tiles retrieved of {len(judge.real_tiles)}": figures["retrieved"],
    }


def main() -> None:
    parser = options(__doc__, size=1024)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--crops", type=int, default=512, help="random crops on each side of a Fréchet distance")
    parser.add_argument("--fast-precision", default="auto", help="of the fast way; the published one needs fp32")
    parser.add_argument("--out", type=Path, help="directory for the images")
    args = parser.parse_args()
    exact = load_model(args.model, args.device, "fp32")
    models = dict.fromkeys(args.ways, exact)
    if "fast" in models:
        models["fast"] = load_model(args.model, args.device, args.fast_precision)
    grid, real = read_reference(args, exact)
    judge, flops = Judge(exact, real, args.crops), flops_of_calls(exact)
    rows = []
    for name, model in models.items():
        rows.append(measure(model, grid, judge, name, args, flops))
        print(rows[-1], flush=True)
        if args.json:
            write_json(args.json, {"machine": machine(exact.device), "rows": rows})
    print(f"\n{args.size} px, {args.steps} steps, guidance {args.guidance}, {machine(exact.device)}\n\n{table(rows)}")
    print(f"\nFréchet distance x 1000 of two sets of crops of the real image: {judge.distance(real):.3f} (the floor).")


if __name__ == "__main__":
    run(main)
