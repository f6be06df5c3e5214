"""Zoom against its guide: unconstrained tiles, the published joint sampling, and the closed form.

For each method: PSNR between the result shrunk and the guide, floating-point operations (torch's counter), denoiser
calls, seconds, a seam score at the tiles' borders, Fréchet distance of random crops to those of the real region. With
--out the guides and the results are written as PNG.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import counted, decode, machine, options, own_encoder, read_reference, run, table, timed
from metrics import encode_all, frechet_distance, gaussian_of, random_crops, retrieval, seam_score, tiles_of, unit
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from largegen import load_model
from largegen.dataset import to_pictures
from largegen.generation import effective
from largegen.runtime import write_json
from largegen.settings import Sampling, Zooming
from largegen.zoom import guide_picture, guide_psnr, zoom_latents

WAYS = {
    "tiles alone": Zooming("published", inner_steps=0, seam_steps=0),
    "published, no seam pass": Zooming("published", seam_steps=0),
    "published": Zooming("published"),
    "fast": Zooming(),
}


def main() -> None:
    parser = options(__doc__, size=1024)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), help=f"of: {', '.join(WAYS)}")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--crops", type=int, default=512, help="random crops on each side of a Fréchet distance")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--out", type=Path, help="directory for the pictures")
    args = parser.parse_args()
    model = load_model(args.model, args.device, args.precision)
    grid, real = read_reference(args, model)
    encode = own_encoder(model).encode

    def crops_of(picture: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        crops = random_crops(picture, model.tile_px, args.crops, seed)
        return gaussian_of(unit(encode_all(encode, crops)))

    real_crops, real_tiles = crops_of(real, 0), encode_all(encode, tiles_of(real, model.tile_px))
    sampling = effective(Sampling(steps=args.steps, guidance=args.guidance, seed=args.seed), model)
    features = torch.from_numpy(grid.features)
    borders = range(model.tile_px, args.size, model.tile_px)
    rows: list[dict[str, Any]] = []
    for name in args.ways:
        with counted(model) as calls, FlopCounterMode(display=False) as flops:
            (guide, canvas), seconds = timed(zoom_latents, model, features, sampling, WAYS[name], progress=True)
        picture, seen = decode(model, canvas), to_pictures(guide_picture(model, guide))[0]
        rows.append(
            {
                "method": name,
                "PSNR with the guide, dB": guide_psnr(seen, picture),
                "TFLOP": flops.get_total_flops() / 1e12,
                "denoiser calls": calls[0],
                "sampling, s": seconds,
                "seam score": f"{seam_score(picture, borders, borders, phase=model.factor):.3f}",
                "Fréchet distance x 1000": 1000 * frechet_distance(crops_of(picture, 1), real_crops),
                f"tiles retrieved of {len(real_tiles)}": retrieval(
                    encode_all(encode, tiles_of(picture, model.tile_px)), real_tiles
                ),
            }
        )
        print(rows[-1], flush=True)
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            stem = name.replace(", ", "-").replace(" ", "-")
            Image.fromarray(seen).save(args.out / f"{stem}-guide.png")
            Image.fromarray(picture).save(args.out / f"{stem}.png")
    print(f"\n{args.size} px, {args.steps} steps, {machine(model.device)}\n\n{table(rows)}")
    if args.json:
        write_json(args.json, {"machine": machine(model.device), "rows": rows})


if __name__ == "__main__":
    run(main)
