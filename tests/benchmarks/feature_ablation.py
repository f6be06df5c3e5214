"""Which of a denoiser's activations tell most of a tile: blocks, timesteps and conditions, by a linear probe.

    python tests/benchmarks/feature_ablation.py --data DIR --model starter --tiles 64

DIR holds manifest.csv and images (see examples/starter). Tiles of the train images teach a linear classifier which
slide a tile is of, and those of the test images, of the same slides, are asked. With --asked halves no test image is
touched: the left half of each slide's first train image teaches, the right one is asked. Beside it: the encoder's, the
encoder's with the features, and the mean embedding of the field that features of a coarser level see.
"""

import argparse
import csv
import hashlib
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from measure import machine, own_encoder, run, table
from PIL import Image

from largegen import load_model
from largegen.models.denoiser_features import DenoiserFeatures
from largegen.models.feature_options import FeatureOptions
from largegen.probing.classifiers import linear
from largegen.runtime.files import write_json

BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--asked", choices=("test", "halves"), default="test")
    parser.add_argument("--tiles", type=int, default=64, help="of each image or half at most, drawn at random")
    parser.add_argument("--level", type=int, default=0)
    parser.add_argument("--timesteps", type=int, nargs="+", default=[61, 261, 501])
    parser.add_argument("--noises", type=int, nargs="+", default=[1], help="how many draws of it are averaged")
    parser.add_argument("--conditions", nargs="+", default=["own", "null"])
    parser.add_argument("--blocks", nargs="+", help="default: all")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = load_model(args.model, args.device)
    encoder = Remembering(own_encoder(model))
    images, labels, test = tiles_of_all(args.data, args.tiles, model.tile_px * 2**args.level, args.asked == "halves")
    print(f"{(~test).sum()} tiles to learn from, {test.sum()} to be asked, of {labels.max() + 1} slides", flush=True)

    def accuracy(features: np.ndarray) -> float:
        predicted = linear(features[~test], labels[~test], features[test], int(labels.max()) + 1)
        return 100 * float((predicted.argmax(1) == labels[test]).mean())

    mean = np.stack([field(image, encoder, model.tile_px) for image in images])
    rows = [
        {
            "features": "encoder, mean of the field",
            "numbers": mean.shape[1],
            "right, %": accuracy(mean),
            "with the encoder, %": "",
        }
    ]
    print(rows[-1], flush=True)
    for condition, timestep in product(args.conditions, args.timesteps):
        options = FeatureOptions(timestep=timestep, noises=max(args.noises), condition=condition)
        found = all_blocks(model, args.level, options, encoder, images)
        for block, noises in product(args.blocks or found, args.noises):
            features = found[block][:noises].mean(0)
            name = f"{block}, t {timestep}, {condition}" + (f", {noises} noises" if noises > 1 else "")
            both = accuracy(np.concatenate([features, mean], 1))
            row = {"features": name, "numbers": features.shape[1], "right, %": accuracy(features)}
            rows.append(row | {"with the encoder, %": both})
            print(rows[-1], flush=True)
    print(f"\n{table(rows)}")
    if args.json:
        write_json(args.json, {"machine": machine(model.device), "rows": rows})


class Remembering:
    """An encoder that encodes the same tiles once."""

    def __init__(self, encoder) -> None:
        self.encoder, self.fingerprint = encoder, encoder.fingerprint
        self._known: dict[bytes, np.ndarray] = {}

    def encode(self, tiles: np.ndarray) -> np.ndarray:
        keys = [hashlib.sha256(tile.tobytes()).digest() for tile in tiles]
        new = {key: n for n, key in enumerate(keys) if key not in self._known}
        if new:
            self._known |= zip(new, self.encoder.encode(tiles[list(new.values())]), strict=True)
        return np.stack([self._known[key] for key in keys])


def tiles_of_all(data: Path, most: int, side: int, halves: bool) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Tiles (side, side, 3) of all images of tissue, the number of each one's slide, and whether it is asked."""
    with (data / "manifest.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["file"].startswith("histology/")]
    asked = {subject(row) for row in rows if row["split"] == "test"}
    rng = np.random.default_rng(0)
    images, labels, test = [], [], []
    for row in rows:
        if subject(row) not in asked or (halves and not row["file"].endswith("-1-4096.jpg")):
            continue
        picture = np.asarray(Image.open(data / row["file"]).convert("RGB"))
        parts = np.array_split(picture, 2, axis=1) if halves else [picture]
        for number, part in enumerate(parts):
            corners = [range(0, length - side + 1, 256) for length in part.shape[:2]]
            places = list(product(*corners))
            for n in rng.permutation(len(places))[:most]:
                y, x = places[n]
                images.append(part[y : y + side, x : x + side].copy())
                labels.append(sorted(asked).index(subject(row)))
                test.append(number == 1 if halves else row["split"] == "test")
    return images, np.array(labels), np.array(test)


def subject(row: dict[str, str]) -> str:
    return Path(row["file"]).stem.rsplit("-", 2)[0]


def field(image: np.ndarray, encoder, tile_px: int) -> np.ndarray:
    """The mean embedding of the tiles of an image."""
    side = len(image) // tile_px
    tiles = image.reshape(side, tile_px, side, tile_px, 3).swapaxes(1, 2).reshape(-1, tile_px, tile_px, 3)
    return encoder.encode(np.ascontiguousarray(tiles)).mean(0)


def all_blocks(model, level: int, options: FeatureOptions, encoder, images) -> dict[str, np.ndarray]:
    """Features of every block, (noises, tiles, C), from one pass of the whole denoiser for each draw of noise."""
    unet = model.unet
    blocks = {f"down{n}": block for n, block in enumerate(unet.down_blocks)} | {"mid": unet.mid_block}
    blocks |= {f"up{n}": block for n, block in enumerate(unet.up_blocks)}
    seen = {name: [] for name in blocks}

    def keep(name):
        def hook(module, inputs, output):
            output = output[0] if isinstance(output, tuple) else output
            seen[name].append(output.float().mean((2, 3)).cpu())

        return hook

    last = f"up{len(unet.up_blocks) - 1}"
    handles = [block.register_forward_hook(keep(name), prepend=True) for name, block in blocks.items()]
    try:
        extractor = DenoiserFeatures(model, level, replace(options, block=last), encoder)
        size = 1 if level else BATCH  # as many as go through the denoiser at once
        for start in range(0, len(images), size):
            extractor.encode(np.stack(images[start : start + size]))
    finally:
        for handle in handles:
            handle.remove()
    count = options.noises
    return {
        name: torch.stack([torch.cat(parts[n::count]) for n in range(count)]).numpy() for name, parts in seen.items()
    }


if __name__ == "__main__":
    run(main)
