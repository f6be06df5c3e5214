"""How good a model is on regions that it never saw: Fréchet distance (VGG16), retrieval, PSNR, beside other slides.

    python tests/benchmarks/held_out_quality.py --data DIR --model starter --kind tissue --seeds 3 --out DIR

DIR holds manifest.csv and images (see examples/starter). Of every test image the middle is generated from its own
embeddings. The distance to it is divided by that of the likest test image of any other slide; below 1, the generated
image is nearer to its reference than real tissue of another slide is. For scenes the other part is any other image.
"""

import argparse
import csv
import json
from itertools import product
from pathlib import Path

import numpy as np
import torch
from measure import machine, own_encoder, run, table, timed
from PIL import Image
from yardsticks import encode_all, tiles_of

from largegen import generate, load_model
from largegen.metrics.distances.frechet import frechet_distance_of_features
from largegen.metrics.features.networks import FeatureNetwork, load_network, perceptual_network
from largegen.metrics.per_image.perceptual import perceptual_distances
from largegen.metrics.per_image.seams import LUMA_WEIGHTS, seam_score, tile_borders
from largegen.metrics.per_image.similarity import retrieval
from largegen.models.pixels import to_images, to_network
from largegen.runtime.files import write_json
from largegen.sampling.settings import Sampling

CROP_PX = 128  # of the crops that the distance is of
BLOCK_PX = 64  # of the blocks whose spectrum tells of a lattice


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--kind", choices=["tissue", "aerial"], default="tissue")
    parser.add_argument("--only", nargs="+", help="beginnings of the names of the images to generate")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--stride", type=int, default=64, help="px between the distance's crops")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, nargs="+", default=[Sampling.steps])
    parser.add_argument("--schedulers", nargs="+", default=[Sampling.scheduler])
    parser.add_argument("--guidance", type=float, nargs="+", default=[Sampling.guidance])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--features", type=Path, help=".npz to keep the real images' features in, for the next time")
    parser.add_argument("--out", type=Path, help="directory for the images")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    ways = [
        dict(zip(("scheduler", "steps", "guidance"), way, strict=True))
        for way in product(args.schedulers, args.steps, args.guidance)
    ]
    model = load_model(args.model, args.device)
    encoder, network = own_encoder(model), load_network("vgg16", device=model.device)
    real = {path.stem: middle(path, args.size, model.tile_px) for path in test_images(args.data, args.kind)}
    features = real_features(real, network, args)
    rows = []
    for name, image in real.items():
        if args.only and not name.startswith(tuple(args.only)):
            continue
        others = [features[other] for other in real if args.kind == "aerial" or subject(other) != subject(name)]
        others = [other for other in others if other is not features[name]]
        nearest = min(frechet_distance_of_features(features[name], other) for other in others)
        codes = encode_all(encoder.encode, tiles_of(image, model.tile_px))
        grid = codes.reshape(image.shape[0] // model.tile_px, image.shape[1] // model.tile_px, -1)
        decoded = to_images(model.autoencoder.decode(model.autoencoder.encode(to_network(image[None]))))[0]
        unlike = model.known.unlike(torch.from_numpy(codes)) if model.known else None
        shared = {
            "image": name,
            "nearest other": nearest,
            "unlike": unlike,
            **autoencoder_figures(image, decoded, model),
        }
        shared["decoded"] = frechet_distance_of_features(features[name], crop_features(decoded, network, args.stride))
        for way in ways:
            for seed in range(args.seeds):
                settings = {**way, "seed": seed}
                made, seconds = timed(generate, model, grid, **settings)
                distance = frechet_distance_of_features(features[name], crop_features(made, network, args.stride))
                found = retrieval(encode_all(encoder.encode, tiles_of(made, model.tile_px)), codes)
                figures = {"distance": distance, "ratio": distance / nearest, "retrieved": found, "tiles": len(codes)}
                figures["seam"] = seam_of(made, model) / seam_of(image, model)
                rows.append({**shared, **settings, **figures, "seconds": seconds})
                print(json.dumps({key: rounded(value) for key, value in rows[-1].items()}), flush=True)
                if args.out:
                    args.out.mkdir(parents=True, exist_ok=True)
                    gap = np.full((len(image), 16, 3), 255, np.uint8)
                    sheet = np.concatenate([image, gap, made], axis=1)
                    about = f"{way['scheduler']}{way['steps']}.g{way['guidance']:g}.s{seed}"
                    Image.fromarray(sheet).save(args.out / f"{name}.{about}.jpg", quality=92)
    summary = [summarised(rows, way) for way in ways]
    print(f"\n{table(summary)}")
    if args.json:
        write_json(args.json, {"machine": machine(model.device), "rows": rows, "summary": summary})


def real_features(
    images: dict[str, np.ndarray], network: FeatureNetwork, args: argparse.Namespace
) -> dict[str, np.ndarray]:
    """Features of the real images' crops, from the file if it is there."""
    if args.features and args.features.exists():
        return dict(np.load(args.features))
    found = {name: crop_features(image, network, args.stride) for name, image in images.items()}
    if args.features:
        np.savez(args.features, **found)
    return found


def test_images(data: Path, kind: str) -> list[Path]:
    """The test images of a kind that manifest.csv lists."""
    folder = {"tissue": "histology", "aerial": "aerial"}[kind]
    with (data / "manifest.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    return [data / row["file"] for row in rows if Path(row["file"]).parent == Path(folder)]


def subject(name: str) -> str:
    """The slide that a region is of: its name without the region's number and size."""
    return name.rsplit("-", 2)[0]


def middle(path: Path, size: int, tile_px: int) -> np.ndarray:
    """The middle of an image, `size` px or as many whole tiles as it has."""
    with Image.open(path) as image:
        width, height = (min(size, side // tile_px * tile_px) for side in image.size)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return np.asarray(image.convert("RGB").crop((left, top, left + width, top + height)))


def crop_features(image: np.ndarray, network: FeatureNetwork, stride: int) -> np.ndarray:
    """Features (N, D) of an image's overlapping crops."""
    crops = np.lib.stride_tricks.sliding_window_view(image, (CROP_PX, CROP_PX), (0, 1))[::stride, ::stride]
    return network.features(np.ascontiguousarray(crops.reshape(-1, 3, CROP_PX, CROP_PX).transpose(0, 2, 3, 1)))


def seam_of(image: np.ndarray, model) -> float:
    """The seam score at the borders of tiles."""
    borders = tile_borders(image.shape[1], image.shape[0], model.tile_px, model.autoencoder.factor)
    return seam_score(image, borders.rows, borders.cols, borders.phase)


def autoencoder_figures(real: np.ndarray, decoded: np.ndarray, model) -> dict[str, float]:
    """What is lost when an image is encoded and decoded."""
    error = np.square(real.astype(float) - decoded).mean()
    pairs = [(np.arange(1), *(tile[None] for tile in both)) for both in zip(*map(tiles, (real, decoded)), strict=True)]
    distance = perceptual_distances(pairs, perceptual_network(model.device), model.device).mean()
    flat = flat_blocks(real)
    lattice = [lattice_energy(blocks_of(image)[flat], model.autoencoder.factor) for image in (decoded, real)]
    return {"PSNR, dB": 10 * np.log10(255**2 / error), "ST-LPIPS": distance, "lattice": lattice[0] / lattice[1]}


def blocks_of(image: np.ndarray) -> np.ndarray:
    """An image's grey blocks, (N, BLOCK_PX, BLOCK_PX)."""
    return tiles_of(image, BLOCK_PX).astype(float) @ LUMA_WEIGHTS


def flat_blocks(image: np.ndarray) -> np.ndarray:
    """Which quarter of an image's blocks varies least."""
    spread = blocks_of(image).std((1, 2))
    return spread <= np.quantile(spread, 0.25)


def lattice_energy(blocks: np.ndarray, period: int) -> float:
    """The power of blocks (N, BLOCK_PX, BLOCK_PX), along rows and columns, at a period in px."""
    spectrum = [np.abs(np.fft.rfft(blocks, axis=axis)).take(BLOCK_PX // period, axis) ** 2 for axis in (1, 2)]
    return float(np.mean(spectrum))


def tiles(image: np.ndarray) -> np.ndarray:
    return tiles_of(image, 256)


MEANS = ("retrieved", "seam", "PSNR, dB", "ST-LPIPS", "lattice", "seconds")


def summarised(rows: list[dict], way: dict) -> dict:
    """Means over images and seeds; of the ratios the geometric one."""
    own = [row for row in rows if way.items() <= row.items()]
    mean = {key: float(np.mean([row[key] for row in own])) for key in MEANS}
    ratio = float(np.exp(np.mean([np.log(row["ratio"]) for row in own])))
    decoded = float(np.exp(np.mean([np.log(row["decoded"] / row["nearest other"]) for row in own])))
    return {**way, "images": len(own), "ratio": ratio, "decoded alone": decoded, **mean}


def rounded(value):
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    run(main)
