"""`grow` on regions of real slides: the seam at the old border, and how like what is really there the prior goes on.

A square of a slide is grown to twice its side, in the middle. At its four borders: how steep the image is there (mean
absolute step of luma) over the lines, one latent apart, within a tile on both sides. The same at the same lines of the
real image, and at all lines of it: mean and spread of one border, which say what chance does. The prior is given the
left half of a grid of tiles; its right half is compared with the real one, by cosine of centred embeddings.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import machine, options, own_encoder, report, run
from PIL import Image

from largegen import grow, load_model
from largegen.metrics.per_image.seams import seam_score
from largegen.sampling.content import imagined, surroundings
from largegen.sampling.edit import tile_embeddings
from largegen.sampling.imagine import find_prior
from largegen.sampling.original import Original
from largegen.sampling.settings import Imagining
from largegen.slides.slide import open_slide


def border_scores(image: np.ndarray, at: int, reach: int, phase: int) -> list[float]:
    """Seam scores of the four borders of a square in the middle of an image.

    Args:
        image: (S, S, 3) uint8.
        at: px from each edge to the square.
        reach: px on both sides of a border that it is compared with.
        phase: px between lines.
    """
    turned = (np.rot90(image, k)[at:-at, at - reach : at + reach] for k in range(4))
    return [seam_score(strip, [], [reach], phase) for strip in turned]


def all_scores(image: np.ndarray, at: int, reach: int, phase: int) -> list[float]:
    """The same scores at all lines of an image that lie far enough from its edges, of its middle rows and columns."""
    turned, lines = (np.rot90(image, k)[at:-at] for k in range(2)), range(reach, len(image) - reach + 1, phase)
    return [seam_score(strip[:, x - reach : x + reach], [], [reach], phase) for strip in turned for x in lines]


def main() -> None:
    parser = options(__doc__, needs_ref=False)
    parser.add_argument("refs", type=Path, nargs="+", help="slides, of whose middle a region is taken")
    parser.add_argument("--source-mag", type=float, help="the slides' magnification, if they do not say")
    parser.add_argument("--tiles", type=int, default=8, help="side of the grid that the prior goes on with")
    parser.add_argument("--size", type=int, default=512, help="side of the square that grows, in px")
    parser.add_argument("--steps", type=int, default=0, help="default: those of a distilled model, or 50")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="directory for the images")
    args = parser.parse_args()
    model = load_model(args.model, args.device, "fp32")
    prior, encoder, rows = find_prior(model, Imagining()), own_encoder(model), []
    content, f, half = imagined(prior, Imagining(), args.seed), model.factor, args.size // 2
    grown_scores: list[float] = []
    real_scores: list[float] = []

    def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
        return torch.cosine_similarity(a - prior.mean.cpu(), b - prior.mean.cpu(), dim=-1).mean().item()

    for path in args.refs:
        with open_slide(path, source_mag=args.source_mag) as slide:
            downsample, side = slide.downsample_for(mpp=model.mpp) if model.mpp else 1.0, args.tiles * model.tile_px
            side = min(
                side, *(int(n / downsample) // model.tile_px * model.tile_px for n in (slide.width, slide.height))
            )
            corner = [(length - side * downsample) / 2 for length in (slide.width, slide.height)]
            real = slide.read(*corner, side, side, downsample)
        grid = tile_embeddings(model, Original.of_arrays(real, np.zeros(real.shape[:2], bool)), encoder)
        new = np.zeros(grid.shape[:2], bool)
        new[:, grid.shape[1] // 2 :] = True
        where, shown = torch.from_numpy(new), real[: 2 * args.size, : 2 * args.size]
        how: dict[str, Any] = {"steps": args.steps, "seed": args.seed, "encoder": encoder, "place": (half, half)}
        grown = grow(model, shown[half:-half, half:-half], 2 * args.size, content, **how)
        ours, theirs = (border_scores(image, half, model.tile_px, f) for image in (grown, shown))
        grown_scores += ours
        real_scores += all_scores(shown, half, model.tile_px, f)
        rows.append(
            {
                "region": path.stem,
                "border, grown": np.mean(ours),
                "the four": " ".join(f"{score:.2f}" for score in ours),
                "border, real": np.mean(theirs),
                "prior, cosine": cosine(content(grid, new)[where], grid[where]),
                "mean, cosine": cosine(surroundings(grid, new)[where], grid[where]),
            }
        )
        chance = float(np.std(real_scores))
        said = {
            "grown, all borders": float(np.mean(grown_scores)),
            "spread": float(np.std(grown_scores)),
            "real, all lines": float(np.mean(real_scores)),
            "spread of one border": chance,
            "of the mean of as many as grown": chance / len(grown_scores) ** 0.5,
        }
        report(rows, args.json, machine=machine(model.device), **said)
        print(said, flush=True)
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            Image.fromarray(grown).save(args.out / f"{path.stem}.png")


if __name__ == "__main__":
    run(main)
