"""Counterfactuals: a part of an image is moved towards a class, and a classifier's score moves with it.

python counterfactual.py --out counterfactual
python counterfactual.py --image slide.tif --embeddings embeddings/ --labels labels.csv --towards tumour --out tumour
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from largegen import edit, load_model
from largegen.conditioning.suitable import encoder_of
from largegen.embeddings.directions import Directions
from largegen.embeddings.file import EmbeddingFile
from largegen.models.encoder import Encoder, load_encoder
from largegen.models.model import Model
from largegen.probing.classifiers import fit_linear
from largegen.probing.directions import directions_between
from largegen.probing.samples import Bags, Labelled, read_bags, read_labels
from largegen.sampling.content import moved
from largegen.slides.find import find_files
from largegen.slides.slide import open_slide

EXAMPLE = Path(__file__).parents[1] / "reference.tif"
MOST_TILES = 2000  # of a slide


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", type=Path, default=EXAMPLE, help="slide or image (default: the bundled example)")
    parser.add_argument("--at", default="512,512", help="X,Y of the part's corner in level-0 px (default: 512,512)")
    parser.add_argument("--tiles", type=int, default=1, help="side of the part, in tiles of the model (default: 1)")
    parser.add_argument("--embeddings", type=Path, help="folder of embedding files, made with the model's encoder")
    parser.add_argument(
        "--labels", type=Path, help="CSV file with the columns file and label, as `largegen probe` reads"
    )
    parser.add_argument("--towards", default="dense", help="the class to move to (default: dense)")
    parser.add_argument("--amounts", type=float, nargs="+", default=[-0.5, 0, 0.5, 1, 1.5], help="how far to move")
    parser.add_argument("--strength", type=float, default=1.0, help="part of the steps: less keeps more form")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("--model", default="tissue", help="bundled model's name or model directory")
    parser.add_argument("--out", type=Path, required=True, help="directory of the images, the table and the directions")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    # A small classifier of our own, and the direction from all other classes to one.
    model = load_model(args.model)
    encoder = load_encoder(encoder_of(model), device=model.device)
    given = args.embeddings is not None
    labelled, bags = read(args.embeddings, args.labels) if given else by_darkness(args.image, model, encoder)
    rows, labels = np.concatenate(bags.bags), np.repeat(labelled.labels, [len(bag) for bag in bags.bags])
    classifier = fit_linear(rows, labels, len(labelled.names))
    ways = directions_between(labelled, bags, "tile")
    Directions(ways, model.info.encoder, model.info.encoder_fingerprint or "").save(args.out / "directions.npz")
    chosen = labelled.names.index(args.towards)

    # The part with a tile around it on each side.
    side, (x, y) = model.tile_px, map(int, args.at.split(","))
    left, top = min(x, side), min(y, side)
    with open_slide(args.image) as slide:
        image = slide.read(x - left, y - top, left + (args.tiles + 1) * side, top + (args.tiles + 1) * side)
    part = (slice(top, top + args.tiles * side), slice(left, left + args.tiles * side))
    mask = np.zeros(image.shape[:2], bool)
    mask[part] = True

    def tiles_of(picture: np.ndarray) -> np.ndarray:
        found = picture[part].reshape(args.tiles, side, args.tiles, side, 3).swapaxes(1, 2)
        return encoder.encode(found.reshape(-1, side, side, 3))

    def score(embeddings: np.ndarray) -> float:
        found = classifier.probabilities(embeddings)[:, chosen].clip(1e-12, 1 - 1e-12)
        return float((np.log(found) - np.log1p(-found)).mean())  # log odds, which do not saturate

    # Each picture is seen by the classifier through the encoder: nothing but the pixels tells it what was asked for.
    before, pictures = tiles_of(image), [image]
    table = ["| moved by | score asked for | score of the picture |", "|---|---|---|"]
    table.append(f"| the image as it is | {score(before):.2f} | |")
    for amount in args.amounts:
        content = moved([(ways[args.towards], amount)])
        how = {"strength": args.strength, "steps": args.steps, "guidance": args.guidance}
        pictures.append(edit(model, image, mask, content, encoder=encoder, progress=True, **how))
        asked, found = score(before + amount * ways[args.towards]), score(tiles_of(pictures[-1]))
        table.append(f"| {amount:g} | {asked:.2f} | {found:.2f} |")
    Image.fromarray(np.concatenate(pictures, 1)).save(args.out / "pictures.png")
    (args.out / "scores.md").write_text("\n".join(table) + "\n", encoding="utf-8")
    print("\n".join(table))


def read(folder: Path, labels: Path) -> tuple[Labelled, Bags]:
    """Read embedding files and their labels."""
    files = [EmbeddingFile(path) for path in find_files([folder], (".h5", ".hdf5"), what="embedding files")]
    labelled, chosen = read_labels(labels, {"files": files})
    return labelled, read_bags("files", chosen["files"], MOST_TILES, 0, labelled.cells)


def by_darkness(path: Path, model: Model, encoder: Encoder) -> tuple[Labelled, Bags]:
    """Take tiles of one image: the third that is darkest is `dense`, the third that is lightest `light`."""
    with open_slide(path) as slide:
        image, side = slide.read(0, 0, slide.width, slide.height), model.tile_px
    rows, cols = (range(0, length - side + 1, side // 4) for length in image.shape[:2])
    tiles = sorted((image[y : y + side, x : x + side] for y in rows for x in cols), key=np.mean)
    third = max(1, len(tiles) // 3)
    found = [encoder.encode(tile[None]) for tile in tiles[:third] + tiles[-third:]]
    numbers = np.arange(len(found))
    about = {"names": ("dense", "light"), "slides": tuple(map(str, numbers)), "cells": (None,) * len(found)}
    return Labelled(**about, labels=numbers // third, patients=numbers, test=None), Bags("tiles", found)


if __name__ == "__main__":
    main()
