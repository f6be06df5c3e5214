"""Train the grid priors of the bundled models, which make images without a reference.

    python examples/starter/prior.py --data DIR --models OUT/model --out OUT/priors

DIR holds manifest.csv and the images (see README.md); OUT/model the models that train.py made, whose encoder is used.
Each prior goes to OUT/model/KIND/prior. Needs largegen[text]. A run that was killed resumes.
"""

import argparse
import csv
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from captions import CAPTIONS, measure, write_captions
from maps import Region, read_manifest
from train import SCALES

from largegen.models.encoder import Encoder, load_encoder
from largegen.models.grid_prior import GridPrior
from largegen.models.info import ModelInfo, TrainingSlide
from largegen.training.config import LoopConfig, PriorConfig
from largegen.training.grid_vectors import caption_vectors
from largegen.training.grids import GridWindows, TrainingGrid
from largegen.training.prepare_prior import new_prior
from largegen.training.run import train
from largegen.training.sampler import orient
from largegen.training.tasks.prior import PriorTask
from largegen.version import __version__

TILE_PX, WINDOW = 256, 8
WAYS = 3  # of laying tiles over each image: turned or mirrored, and moved
PLACES = 24  # windows of each of them, with captions of their own
LOOK_PX = 4  # from one pixel to the next that is measured
LIGHT = {"tissue": (244, 243, 244), "aerial": (255, 255, 255)}  # of empty glass and of no data
# 7 MB in fp16.
FORM = PriorConfig(window=WINDOW, components=64, width=192, layers=5, held_out=0.0)
LOOP = {"batch_size": 32, "learning_rate": 6e-4, "warmup_steps": 50, "schedule": "cosine", "ema_decay": 0.998}
EVERY = {"validate_every": 10_000, "checkpoint_every": 250, "checkpoints_limit": 1, "log_every": 25}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kinds", nargs="+", choices=list(SCALES), default=list(SCALES))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--images", type=int, help="use only so many images of each kind, to try it")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    for kind in options.kinds:
        encoder = load_encoder(f"local-dir:{options.models / 'encoder'}", device=options.device)
        regions = [region for region in read_manifest(options.data, "train") if region.kind == kind][: options.images]
        grids, captions, subjects = embed_regions(kind, regions, encoder, options.data)
        prior, grids = make_prior(kind, grids, captions, subjects, encoder, regions)
        task = PriorTask(GridWindows(prior, grids, 0.0, 0), prior, torch.float16)
        loop = LoopConfig(steps=options.steps, workers=0, device=options.device, resume="latest", **LOOP, **EVERY)
        train(task, options.out / kind, loop)
        target = options.models / kind / "prior"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(options.out / kind / "model", target)
        print(f"{target}: done", flush=True)


def subject_of(data: Path) -> dict[str, tuple[str, str]]:
    """By file name: the organ or kind of place, which is the label, and the finding."""
    with (data / "manifest.csv").open(newline="") as file:
        rows = {Path(row["file"]).stem: row for row in csv.DictReader(file)}
    return {name: _subject(name, row) for name, row in rows.items()}


def _subject(name: str, row: dict[str, str]) -> tuple[str, str]:
    if "forest" in name:
        return "forest", row["organ_or_place"].partition(", ")[2]
    if "town" in name:
        return "town", ""
    return row["organ_or_place"], row["diagnosis_or_detail"].partition(" (")[0]


def tiles_of(image: np.ndarray) -> np.ndarray:
    """Divide an image into whole tiles, from its corner on: (rows, cols, TILE_PX, TILE_PX, 3)."""
    rows, cols = image.shape[0] // TILE_PX, image.shape[1] // TILE_PX
    whole = image[: rows * TILE_PX, : cols * TILE_PX].reshape(rows, TILE_PX, cols, TILE_PX, 3)
    return np.ascontiguousarray(whole.swapaxes(1, 2))


def read_grid(kind: str, image: np.ndarray, encoder: Encoder, name: str) -> tuple[TrainingGrid, dict[str, np.ndarray]]:
    """Embed the tiles of an image (H, W, 3), and measure them: the grid, and shares (rows, cols)."""
    tiles = tiles_of(image)
    small, flat = tiles[:, :, ::LOOK_PX, ::LOOK_PX], tiles.reshape(-1, TILE_PX, TILE_PX, 3)
    shares = measure(kind, small.reshape(-1, *small.shape[2:]))
    shares = {name: values.reshape(tiles.shape[:2]) for name, values in shares.items()}
    empty = shares["glass"] > 0 if kind == "tissue" else (small > 250).all(-1).mean((2, 3)) > 0.9
    features = np.concatenate([encoder.encode(part) for part in np.array_split(flat, -(-len(flat) // 32))])
    grid = features.reshape(*tiles.shape[:2], -1)
    return TrainingGrid(name, grid, ~empty, tile=lambda row, col: small[row, col]), shares


def embed_regions(
    kind: str, regions: list[Region], encoder: Encoder, data: Path
) -> tuple[list[TrainingGrid], list[list[str]], list[str]]:
    """Embed every image turned in several ways: grids with the places of their captions, captions, and labels."""
    rng, words = np.random.default_rng(0), random.Random(0)
    known = subject_of(data)
    grids, captions, labels = [], [], []
    for number, region in enumerate(regions):
        label, finding = known[region.path.stem]
        subject = ", ".join(filter(None, (label, finding)))
        image = region.read().movedim(0, -1).numpy()
        if min(image.shape[:2]) < TILE_PX:
            continue
        for way in rng.permutation(8)[:WAYS]:
            top, left = rng.integers(min(TILE_PX, image.shape[0] - TILE_PX + 1), size=2)  # not always the same tiles
            grid, shares = read_grid(kind, orient(image[top:, left:], int(way)), encoder, region.path.stem)
            room = [max(1, side - WINDOW + 1) for side in grid.tissue.shape]
            places = np.stack(np.unravel_index(rng.permutation(room[0] * room[1])[:PLACES], room), 1)
            said = []
            for row, col in places.tolist():
                window = (slice(row, row + WINDOW), slice(col, col + WINDOW))
                mean = {name: float(values[window].mean()) for name, values in shares.items()}
                said.append(write_captions(kind, subject, mean, words))
            grids.append(replace(grid, places=places.repeat(CAPTIONS, 0)))
            captions.append([text for texts in said for text in texts])
            labels.append(label)
        print(f"{kind}: {number + 1} of {len(regions)} images embedded", flush=True)
    return grids, captions, labels


def make_prior(
    kind: str,
    grids: list[TrainingGrid],
    captions: list[list[str]],
    subjects: list[str],
    encoder: Encoder,
    regions: list[Region],
) -> tuple[GridPrior, list[TrainingGrid]]:
    """A prior with new weights, and the grids with their labels and the vectors of their captions."""
    vectors, mean, licence = caption_vectors(captions, FORM.text_encoder)
    labels = sorted(set(subjects))
    about = zip(grids, subjects, vectors, strict=True)
    grids = [replace(grid, label=labels.index(subject), vectors=own) for grid, subject, own in about]
    blank = np.full((1, TILE_PX, TILE_PX, 3), LIGHT[kind], np.uint8)
    info = ModelInfo(
        name=f"{kind}-prior",
        largegen_version=__version__,
        encoder="starter",
        encoder_fingerprint=encoder.fingerprint,
        encoder_licence="Apache-2.0",
        licence="Apache-2.0",
        embedding_dim=encoder.dim,
        tile_px=TILE_PX,
        trained_on=tuple(TrainingSlide(region.path.stem, **SCALES[kind]) for region in regions),
    )
    prior = new_prior(
        FORM,
        grids,
        background=torch.from_numpy(encoder.encode(blank)[0]),
        prompt_mean=mean,
        seed=0,
        scales=list(SCALES[kind].values()),
        labels=labels,
        kind="slide" if kind == "tissue" else "scene",
        background_rgb=LIGHT[kind],
        text_encoder=FORM.text_encoder,
        text_licence=licence,
        info=info.as_dict(),
    )
    return prior, grids


if __name__ == "__main__":
    main()
