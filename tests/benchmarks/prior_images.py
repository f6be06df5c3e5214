"""What a grid prior costs in the image: crops of images from its grids, and from real grids, against real crops.

    python tests/benchmarks/prior_images.py --data images --model tissue --out sheets

From the middle of every test image, 2x2 tiles are generated from their own embeddings, and 2x2 tiles from the middle of
a grid that the prior samples for the same label. Distances are Fréchet's, of the features of crops of all images.
"""

import sys
import time
from pathlib import Path

import numpy as np
from held_out_quality import crop_features, middle, test_images
from measure import machine, options, own_encoder, report, run
from PIL import Image
from yardsticks import tiles_of

from largegen import generate
from largegen.metrics.distances.frechet import frechet_distance_of_features
from largegen.metrics.features.networks import load_network
from largegen.models.model import load_model
from largegen.sampling.imagine import find_prior, grid_settings, imagine_grid
from largegen.sampling.settings import Imagining

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "starter"))
STRIDE_PX = 64  # between crops


def main() -> None:
    parser = options(__doc__ or "", needs_ref=False)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--every", type=int, default=1, help="take every n-th test image")
    parser.add_argument("--prior-guidance", type=float, default=Imagining.prior_guidance)
    parser.add_argument("--network", default="vgg16", help="whose features are compared")
    parser.add_argument("--out", type=Path, required=True, help="directory for sheets: real, from its grid, imagined")
    args = parser.parse_args()
    from seen import subjects_of

    model = load_model(args.model, args.device)
    kind = "tissue" if model.mpp else "aerial"
    encoder, prior = own_encoder(model), find_prior(model, Imagining())
    network = load_network(args.network, model.device)
    side, window = args.size // model.tile_px, int(prior.config.window)
    subjects, images = subjects_of(args.data), {"real": [], "from real grids": [], "from the prior": []}
    seconds = {"prior": 0.0, "image": 0.0}
    for number, path in enumerate(test_images(args.data, kind)[:: args.every]):
        real = middle(path, args.size, model.tile_px)
        request = Imagining(label=subjects[path.stem][0], prior_guidance=args.prior_guidance)
        settings = grid_settings(prior, request, window, window, number)
        started = time.process_time()
        imagined = imagine_grid(prior, request, settings, number)
        seconds["prior"] += time.process_time() - started
        first = (window - side) // 2
        crop = imagined.features[first : first + side, first : first + side]
        own = encoder.encode(tiles_of(real, model.tile_px)).reshape(side, side, -1)
        started = time.process_time()
        made = [generate(model, grid, steps=args.steps, seed=number) for grid in (own, crop)]
        seconds["image"] += (time.process_time() - started) / 2
        for name, image in zip(images, (real, *made), strict=True):
            images[name].append(image)
        args.out.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate([real, *made], 1)).save(args.out / f"{path.stem}.jpg", quality=90)
        print(path.stem, flush=True)
    features = {
        name: np.concatenate([crop_features(one, network, STRIDE_PX) for one in own]) for name, own in images.items()
    }
    rows = [
        {"images": name, "Fréchet distance to the real ones": frechet_distance_of_features(features["real"], own)}
        for name, own in features.items()
        if name != "real"
    ]
    report(rows, args.json, seconds=seconds, count=len(images["real"]), machine=machine(model.device))
    print(
        {name: round(value / len(images["real"]), 2) for name, value in seconds.items()},
        "seconds of the processor each",
    )


if __name__ == "__main__":
    run(main)
