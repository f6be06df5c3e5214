"""What few steps cost in quality: a model in 50, 20, 12 and 8 steps, and its student, on regions that it never saw.

    python tests/benchmarks/few_steps.py --data DIR --model runs/fast --only breast kidney --size 1024

DIR holds manifest.csv and images (see examples/starter). Of every test image the middle is generated from its own
embeddings, by every way with the same seeds. `distance` is the Fréchet distance (VGG16) to it, relative to the first
way's; `to the first` that to the first way's images of all regions; `seam` the seam score where windows met last,
relative to that of the real image there.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from held_out_quality import crop_features, middle, test_images
from measure import machine, own_encoder, run, table, timed
from PIL import Image
from yardsticks import encode_all, tiles_of

from largegen import generate, load_model
from largegen.metrics.distances.frechet import frechet_distance_of_features
from largegen.metrics.features.networks import load_network
from largegen.metrics.per_image.seams import seam_score, window_borders
from largegen.metrics.per_image.similarity import retrieval
from largegen.runtime.files import write_json
from largegen.sampling.cost import count_calls
from largegen.sampling.generate import resolve_defaults
from largegen.sampling.settings import Sampling


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="starter", help="with a student")
    parser.add_argument("--kind", choices=["tissue", "aerial"], default="tissue")
    parser.add_argument("--only", nargs="+", help="beginnings of the names of the images to generate")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--stride", type=int, default=64, help="px between the distance's crops")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, nargs="+", default=[50, 20, 12, 8], help="of the model itself")
    parser.add_argument("--shift", action="store_true", help="the student with shifted windows, too")
    parser.add_argument("--guidance", type=float, default=Sampling.guidance)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="directory for the images")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = load_model(args.model, args.device)
    encoder, network = own_encoder(model), load_network("vgg16", model.device)
    ways = {f"{steps} steps": Sampling(steps=steps, distilled=False) for steps in args.steps}
    if model.student_info:
        ways["student"] = Sampling()
        if args.shift:
            ways["student, shift"] = Sampling(windows="shift")
    ways = {name: resolve_defaults(replace(way, guidance=args.guidance), model) for name, way in ways.items()}
    rows, features = [], {name: [] for name in ways}
    for path in test_images(args.data, args.kind):
        if args.only and not path.name.startswith(tuple(args.only)):
            continue
        image = middle(path, args.size, model.tile_px)
        codes = encode_all(encoder.encode, tiles_of(image, model.tile_px))
        grid = codes.reshape(image.shape[0] // model.tile_px, image.shape[1] // model.tile_px, -1)
        real = crop_features(image, network, args.stride)
        for name, way in ways.items():
            for seed in range(args.seeds):
                sampling = replace(way, seed=seed)
                made, seconds = timed(generate, model, grid, **given(sampling))
                features[name].append(crop_features(made, network, args.stride))
                height, width = (side // model.factor for side in image.shape[:2])
                rows.append(
                    {
                        "way": name,
                        "calls": count_calls(sampling, model.window, height, width),
                        "seconds": seconds,
                        "distance": frechet_distance_of_features(real, features[name][-1]),
                        "retrieved": retrieval(encode_all(encoder.encode, tiles_of(made, model.tile_px)), codes),
                        "seam": seam(made, sampling, model) / seam(image, sampling, model),
                    }
                )
                print({"image": path.stem, "seed": seed, **rows[-1]}, flush=True)
                if args.out:
                    args.out.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(made).save(args.out / f"{path.stem}.{name.replace(' ', '-')}.{seed}.png")
    first = next(iter(ways))
    summary = [summarised(rows, features, name, first) for name in ways]
    print(f"\n{table(summary)}")
    if args.json:
        write_json(args.json, {"machine": machine(model.device), "rows": rows, "summary": summary})


def given(sampling: Sampling) -> dict:
    """Settings of `generate` that resolve to these."""
    names = ["steps", "guidance", "scheduler", "distilled", "windows", "stride", "batch_size", "seed"]
    return {name: getattr(sampling, name) for name in names}


def seam(image: np.ndarray, sampling: Sampling, model) -> float:
    """The seam score where the windows of the last step begin and end."""
    borders = window_borders(image.shape[1], image.shape[0], model.tile_px, model.factor, sampling)
    return seam_score(image, borders.rows, borders.cols, borders.phase)


def summarised(rows: list[dict], features: dict[str, list[np.ndarray]], name: str, first: str) -> dict:
    """Means over images and seeds; of the distances the geometric one, relative to the first way's."""
    own = [row for row in rows if row["way"] == name]
    pairs = zip(own, (row for row in rows if row["way"] == first), strict=True)
    ratio = float(np.exp(np.mean([np.log(a["distance"] / b["distance"]) for a, b in pairs])))
    between = frechet_distance_of_features(*(np.concatenate(features[way]) for way in (name, first)))
    means = {key: float(np.mean([row[key] for row in own])) for key in ("calls", "seconds", "retrieved", "seam")}
    return {"way": name, "images": len(own), "distance": ratio, "to the first": between, **means}


if __name__ == "__main__":
    run(main)
