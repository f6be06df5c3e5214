"""Super-resolution on regions of real slides: `upscale` beside bicubic and Lanczos, and beside inversion from noise.

A region at the model's finest magnification is shrunk (bicubic, antialiased) by the factor, and enlarged again.
For each way: PSNR and SSIM against the region, ST-LPIPS (lower is nearer; needs largegen[perceptual]), the mean cosine
of its tiles' embeddings with those of the region's, PSNR of the result shrunk against the small image, and seconds.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import machine, options, own_encoder, report, run
from PIL import Image

from largegen import load_model, upscale
from largegen.models.model import Model
from largegen.models.perceptual import load_perceptual
from largegen.models.pixels import to_images, to_network
from largegen.sampling.zoom.downsample import downsample_image, guide_psnr
from largegen.slides.slide import open_slide
from largegen.training.tasks.autoencoder import ssim

WAYS: dict[str, dict[str, Any]] = {
    "view": {},
    "view, not inverted": {"invert_steps": 0},
    "from noise": {"start": "noise"},
    "published": {"start": "noise", "method": "published"},
    "default": {"steps": 0},  # a distilled model's own steps, or 20
}


def enlarged(low: np.ndarray, factor: int, way: Image.Resampling) -> np.ndarray:
    """Enlarge (H, W, 3) uint8 by a filter."""
    return np.asarray(Image.fromarray(low).resize((low.shape[1] * factor, low.shape[0] * factor), way))


class Judge:
    """Compares images with a real region."""

    def __init__(self, model: Model, real: np.ndarray, low: np.ndarray) -> None:
        self.encoder, self.perceptual = own_encoder(model), load_perceptual()
        self.real, self.low, self.tile_px = real, low, model.tile_px
        self.embeddings = self._embed(real)

    def figures(self, image: np.ndarray) -> dict[str, Any]:
        """Measure an image of the region's size."""
        a, b = to_network(image)[None], to_network(self.real)[None]
        error = (a - b).square().mean().item() / 4
        likeness = torch.cosine_similarity(self._embed(image), self.embeddings, dim=-1)
        return {
            "PSNR, dB": -10 * float(np.log10(error)),
            "SSIM": ssim(a, b).mean().item(),
            "ST-LPIPS": self.perceptual(a, b).mean().item(),
            "similarity": likeness.mean().item(),
            "consistency, dB": guide_psnr(self.low, image),
        }

    def _embed(self, image: np.ndarray) -> torch.Tensor:
        side = self.tile_px
        rows, cols = image.shape[0] // side, image.shape[1] // side
        tiles = image[: rows * side, : cols * side].reshape(rows, side, cols, side, 3).swapaxes(1, 2)
        return torch.from_numpy(self.encoder.encode(tiles.reshape(-1, side, side, 3)))


def main() -> None:
    parser = options(__doc__, needs_ref=False)
    parser.add_argument("refs", type=Path, nargs="+", help="slides, of whose middle a region is taken")
    parser.add_argument("--source-mag", type=float, help="the slides' magnification, if they do not say")
    parser.add_argument("--size", type=int, default=512, help="side of a region in px at the model's finest")
    parser.add_argument("--factor", type=int, default=4)
    parser.add_argument("--at", help="X,Y: corner of the region in level-0 px (default: the middle)")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rates", type=float, nargs="*", default=[], help="learning rates to compare for `view`")
    parser.add_argument("--out", type=Path, help="directory for the images")
    args = parser.parse_args()
    model = load_model(args.model, args.device, "fp32")
    rows = []
    for path in args.refs:
        rows += measure(model, path, args)
        report(rows, args.json, machine=machine(model.device))


def measure(model: Model, path: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure all ways on one region."""
    with open_slide(path, source_mag=args.source_mag) as slide:
        downsample = slide.downsample_for(mpp=model.mpp)
        side = args.size * downsample
        middle = (slide.width - side) / 2, (slide.height - side) / 2
        x, y = map(int, args.at.split(",")) if args.at else middle
        real = slide.read(x, y, args.size, args.size, downsample)
    low = to_images(downsample_image(real, args.factor))
    judge, found = Judge(model, real, low), []
    ways = {name: WAYS[name] for name in args.ways}
    ways |= {f"view, rate {rate:g}": {"invert_rate": rate} for rate in args.rates}
    made: dict[str, Callable[[], np.ndarray]] = {
        "bicubic": lambda: enlarged(low, args.factor, Image.Resampling.BICUBIC),
        "Lanczos": lambda: enlarged(low, args.factor, Image.Resampling.LANCZOS),
    } | {
        name: lambda how=how: upscale(
            model, low, args.factor, **{"steps": args.steps, "guidance": args.guidance, "seed": args.seed} | how
        )
        for name, how in ways.items()
    }
    for name, make in made.items():
        started = time.perf_counter()
        image = make()
        seconds = time.perf_counter() - started
        found.append({"region": path.stem, "way": name, **judge.figures(image), "s": seconds})
        print(found[-1], flush=True)
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(args.out / f"{path.stem}-{name.replace(' ', '-')}.png")
            Image.fromarray(real).save(args.out / f"{path.stem}-real.png")
    return found


if __name__ == "__main__":
    run(main)
