"""Quality against cost: strides of overlapping windows and shifted windows, numbers of steps, schedulers.

For each setting: denoiser calls, seconds, a seam score, the Fréchet distance of random crops to crops of the real
region, and tile retrieval. With --json the results are kept as they come, and the same command resumes from there.
"""

import argparse
import json
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from measure import counted, decode, machine, options, own_encoder, read_reference, run, table, timed
from yardsticks import (
    encode_all,
    random_crops,
    tiles_of,
)

from largegen import generate, load_model
from largegen.embeddings.grid import EmbeddingGrid
from largegen.errors import InputError
from largegen.metrics.distances.frechet import Gaussian, frechet_distance, gaussian_of
from largegen.metrics.per_image.seams import Borders, seam_score, window_borders
from largegen.metrics.per_image.similarity import retrieval, unit
from largegen.models.model import Model
from largegen.models.pixels import to_network
from largegen.runtime.files import write_json
from largegen.sampling.generate import resolve_defaults
from largegen.sampling.settings import Sampling


def parse() -> argparse.Namespace:
    parser = options(__doc__, size=1024)
    parser.add_argument("--steps", type=int, nargs="+", default=[50, 20, 12])
    parser.add_argument("--quarters", type=int, nargs="*", default=[1, 2, 3], help="strides, in quarters of a window")
    parser.add_argument("--schedulers", nargs="+", default=["ddim"], help="ddim, dpm++, unipc")
    parser.add_argument("--seeds", type=int, default=1, help="images of each setting; figures are their means")
    parser.add_argument("--crops", type=int, default=512, help="random crops on each side of a Fréchet distance")
    parser.add_argument("--precision", default="auto")
    return parser.parse_args()


class Judge:
    """Holds generated images against the real one, in the model's own encoder's space."""

    def __init__(self, model: Model, real: np.ndarray, crops: int):
        self.encode: Callable[[np.ndarray], np.ndarray] = own_encoder(model).encode
        self.tile_px, self.crops = model.tile_px, crops
        self.image, self.real = real, self.crops_of(real, seed=0)
        self.real_tiles = encode_all(self.encode, tiles_of(real, model.tile_px))

    def crops_of(self, image: np.ndarray, seed: int) -> Gaussian:
        """Mean and covariance of the embeddings, of length 1, of random crops."""
        crops = random_crops(image, self.tile_px, self.crops, seed)
        return gaussian_of(unit(encode_all(self.encode, crops)))

    def distance(self, image: np.ndarray) -> float:
        """Fréchet distance of an image's crops, at other places than the reference's, x 1000."""
        return 1000 * frechet_distance(self.crops_of(image, seed=1), self.real)

    def figures(self, image: np.ndarray, borders: Borders) -> dict[str, float]:
        """All figures of an image whose windows, at the last step, began and ended there."""
        return {
            "seam": seam_score(image, *borders),
            "distance": self.distance(image),
            "retrieved": retrieval(encode_all(self.encode, tiles_of(image, self.tile_px)), self.real_tiles),
        }

    def halves(self, image: np.ndarray) -> float:
        """Fréchet distance, x 1000, between the left and the right half of an image."""
        left, right = (self.crops_of(half, seed=0) for half in np.array_split(image, 2, axis=1))
        return 1000 * frechet_distance(left, right)


def measure_cell(
    model: Model, grid: EmbeddingGrid, judge: Judge, cell: dict[str, Any], seeds: int, size: int, guidance: float
) -> dict[str, Any]:
    """The figures of one setting, averaged over `seeds` images."""
    found = []
    for seed in range(seeds):
        with counted(model) as calls:
            canvas, seconds = timed(
                generate, model, grid, size=size, guidance=guidance, seed=seed, output="latent", **cell
            )
        image, decoding = timed(decode, model, canvas)
        sampling = resolve_defaults(Sampling(**cell, seed=seed), model)
        figures = judge.figures(image, window_borders(size, size, model.tile_px, model.factor, sampling))
        found.append({"calls": calls[0], "seconds": seconds, "decoding": decoding, **figures})
    return {key: float(np.mean([one[key] for one in found])) for key in found[0]}


def main() -> None:
    args = parse()
    model = load_model(args.model, args.device, args.precision)
    windows = [{"windows": "overlap", "stride": quarters * model.window // 4} for quarters in args.quarters]
    windows.append({"windows": "shift"})
    grid, real = read_reference(args, model)
    judge = Judge(model, real, args.crops)
    settings = {key: str(getattr(args, key)) for key in ("model", "ref", "mag", "size", "guidance", "seeds", "crops")}
    settings |= {"precision": str(model.dtype), **machine(model.device)}
    cells = recall(args, settings)
    for scheduler, steps, how in product(args.schedulers, args.steps, windows):
        cell = {"scheduler": scheduler, "steps": steps, **how}
        name = " ".join(map(str, cell.values()))
        if name not in cells:
            cells[name] = cell | measure_cell(model, grid, judge, cell, args.seeds, args.size, args.guidance)
            if args.json:
                write_json(args.json, {"settings": settings, "cells": cells})
    rows = [as_row(cell, model.window, len(judge.real_tiles)) for cell in cells.values()]
    print(f"{args.size} px, {args.crops} crops of {model.tile_px} px on each side, {args.seeds} seed(s), {settings}\n")
    print(table(rows))
    scores = seam_scores_anywhere(real, model.tile_px, model.factor)
    print(
        f"\nThe real image: seam score {np.mean(scores):.3f} ± {np.std(scores):.3f} over all grids of tiles;", end=" "
    )
    print(f"Fréchet distance x 1000 of two sets of its own crops {judge.distance(real):.3f} (the floor),", end=" ")
    print(f"of its left to its right half {judge.halves(real):.1f}.")
    through = decode(model, model.autoencoder.encode(to_network(real)[None]).cpu())
    print(f"The autoencoder alone: Fréchet distance x 1000 {judge.distance(through):.2f}.")


def seam_scores_anywhere(image: np.ndarray, tile_px: int, factor: int) -> list[float]:
    """Seam scores of an image at the borders of grids of tiles that begin anywhere: what no seam at all gives."""
    grids = [range(offset, min(image.shape[:2]), tile_px) for offset in range(factor, tile_px, factor)]
    return [seam_score(image, grid, grid, phase=factor) for grid in grids]


def recall(args: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    """The cells that an earlier run of the same settings left in --json."""
    if not args.json or not args.json.exists():
        return {}
    earlier = json.loads(args.json.read_text())
    if earlier["settings"] != settings:
        raise InputError(f"{args.json}: measured with other settings; give another --json")
    return earlier["cells"]


def as_row(cell: dict[str, Any], window: int, tiles: int) -> dict[str, Any]:
    quarters = f"overlap, {cell['stride'] / window:g} window" if cell["windows"] == "overlap" else "shift"
    return {
        "windows": quarters,
        "scheduler": cell["scheduler"],
        "steps": cell["steps"],
        "denoiser calls": round(cell["calls"]),
        "sampling, s": cell["seconds"],
        "seam score": f"{cell['seam']:.3f}",
        "Fréchet distance x 1000": cell["distance"],
        f"tiles retrieved of {tiles}": f"{cell['retrieved']:g}",
    }


if __name__ == "__main__":
    run(main)
