"""`grow` on regions of real slides: the seam at the old border, and how like what is really there the prior goes on.

A square of a slide is made twice as wide. How steep the image is at the old border (mean absolute step of luma, lines
every latent) is compared with the lines within a tile on both sides of it; so are lines of the real image. The prior is
given the left half of a grid of tiles; its right half is compared with the real one, by cosine of centred embeddings.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import machine, options, own_encoder, report, run

from largegen import grow, load_model
from largegen.metrics.per_image.seams import seam_score
from largegen.sampling.content import imagined, surroundings
from largegen.sampling.edit import tile_embeddings
from largegen.sampling.imagine import find_prior
from largegen.sampling.original import Original
from largegen.sampling.settings import Imagining
from largegen.slides.slide import open_slide


def main() -> None:
    parser = options(__doc__, needs_ref=False)
    parser.add_argument("refs", type=Path, nargs="+", help="slides, of whose middle a region is taken")
    parser.add_argument("--source-mag", type=float, help="the slides' magnification, if they do not say")
    parser.add_argument("--tiles", type=int, default=8, help="side of the grid that the prior goes on with")
    parser.add_argument("--size", type=int, default=512, help="side of the square that grows, in px")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model = load_model(args.model, args.device, "fp32")
    prior, encoder, rows = find_prior(model, Imagining()), own_encoder(model), []
    content = imagined(prior, Imagining(), args.seed)

    def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
        return torch.cosine_similarity(a - prior.mean.cpu(), b - prior.mean.cpu(), dim=-1).mean().item()

    for path in args.refs:
        with open_slide(path, source_mag=args.source_mag) as slide:
            downsample, side = slide.downsample_for(mpp=model.mpp), args.tiles * model.tile_px
            corner = [(length - side * downsample) / 2 for length in (slide.width, slide.height)]
            real = slide.read(*corner, side, side, downsample)
        grid = tile_embeddings(model, Original.of_arrays(real, np.zeros(real.shape[:2], bool)), encoder)
        new = np.zeros(grid.shape[:2], bool)
        new[:, args.tiles // 2 :] = True
        where, old = torch.from_numpy(new), real[: args.size, : args.size]
        found: dict[str, Any] = {
            "region": path.stem,
            "prior, cosine": cosine(content(grid, new)[where], grid[where]),
            "mean, cosine": cosine(surroundings(grid, new)[where], grid[where]),
        }
        how: dict[str, Any] = {"steps": args.steps, "seed": args.seed, "encoder": encoder, "progress": True}
        grown = grow(model, old, (2 * args.size, args.size), content, place=(0, 0), **how)
        near = slice(args.size - model.tile_px, args.size + model.tile_px)
        for name, image in (("grown", grown), ("real", real[: args.size])):
            score = seam_score(image[:, near], [], [model.tile_px], model.factor)
            found[f"steps at the border, {name}"] = score
        rows.append(found)
        report(rows, args.json, machine=machine(model.device))


if __name__ == "__main__":
    run(main)
