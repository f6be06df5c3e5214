"""Train the grid priors of the bundled models, which make images without a reference.

    python examples/starter/prior.py --data DIR --out OUT

DIR holds manifest.csv and the images (see README.md). OUT/KIND/model is the prior, which a model has as its `prior`
folder; OUT/embeddings what it was trained on. Needs largegen[text]. A run that was killed resumes.
"""

import argparse
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from captions import write_captions
from maps import read_manifest
from seen import LIGHT, TILE_PX, SeenGrid, known_labels, see
from train import SCALES

from largegen.models.encoder import Encoder, load_encoder
from largegen.models.grid_prior import GridPrior
from largegen.models.info import ModelInfo, TrainingSlide
from largegen.training.config import LoopConfig, PriorConfig
from largegen.training.grid_vectors import caption_vectors
from largegen.training.grids import GridWindows, TrainingGrid
from largegen.training.prepare_prior import new_prior
from largegen.training.run import train
from largegen.training.tasks.prior import PriorTask
from largegen.version import __version__

WINDOW = 8
# 7 MB in fp16.
FORM = PriorConfig(window=WINDOW, components=32, width=192, layers=5, turned=True, held_out=0.0)
LOOP = {"batch_size": 32, "learning_rate": 1e-3, "warmup_steps": 50, "schedule": "cosine", "ema_decay": 0.99}
LOOP |= {"mixed_precision": "bf16", "workers": 0}
EVERY = {"validate_every": 10_000, "checkpoint_every": 100, "checkpoints_limit": 1, "log_every": 25}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--encoder", default="starter", help="that of the models: local-dir:RUN/model/encoder")
    parser.add_argument("--kinds", nargs="+", choices=list(SCALES), default=list(SCALES))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--images", type=int, help="use only so many images of each kind, to try it")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    encoder = load_encoder(options.encoder, device=options.device)
    for kind in options.kinds:
        regions = [region for region in read_manifest(options.data, "train") if region.kind == kind][: options.images]
        seen = see(kind, regions, encoder, options.out / "embeddings", options.data)
        prior, grids = make_prior(kind, seen, encoder)
        task = PriorTask(GridWindows(prior, grids, FORM.held_out, 0, FORM.turned), prior, torch.float16)
        loop = LoopConfig(steps=options.steps, device=options.device, resume="latest", **LOOP, **EVERY)
        train(task, options.out / kind, loop)
        print(f"{options.out / kind / 'model'}: done", flush=True)


def captions_of(kind: str, seen: SeenGrid, words: random.Random) -> tuple[np.ndarray, list[str]]:
    """Write captions of every window of a grid: the first tiles (n, 2) of their windows, and the captions (n)."""
    rooms = [range(max(1, side - WINDOW + 1)) for side in seen.grid.tissue.shape]
    places, texts = [], []
    for row in rooms[0]:
        for col in rooms[1]:
            window = (slice(row, row + WINDOW), slice(col, col + WINDOW))
            mean = {name: float(values[window].mean()) for name, values in seen.shares.items()}
            own = write_captions(kind, seen.subject, mean, words)
            texts += own
            places += [(row, col)] * len(own)
    return np.array(places), texts


def make_prior(kind: str, seen: list[SeenGrid], encoder: Encoder) -> tuple[GridPrior, list[TrainingGrid]]:
    """A prior with new weights, and the grids with their labels and the vectors of their captions."""
    words = random.Random(0)
    places, captions = zip(*(captions_of(kind, one, words) for one in seen), strict=True)
    vectors, mean, licence = caption_vectors(captions, FORM.text_encoder)
    about = zip(seen, places, vectors, strict=True)
    grids = [replace(one.grid, places=own, vectors=told) for one, own, told in about]
    blank = np.full((1, TILE_PX, TILE_PX, 3), LIGHT[kind], np.uint8)
    scale = SCALES[kind]
    info = ModelInfo(
        name=f"{kind}-prior",
        largegen_version=__version__,
        encoder="starter",
        encoder_fingerprint=encoder.fingerprint,
        encoder_licence="Apache-2.0",
        licence="Apache-2.0",
        embedding_dim=encoder.dim,
        tile_px=TILE_PX,
        trained_on=tuple(TrainingSlide(name, **scale) for name in dict.fromkeys(one.grid.name for one in seen)),
    )
    prior = new_prior(
        FORM,
        grids,
        background=torch.from_numpy(encoder.encode(blank)[0]),
        prompt_mean=mean,
        seed=0,
        scales=[size for size in scale.values() if size],
        labels=known_labels(seen),
        kind="slide" if kind == "tissue" else "scene",
        background_rgb=LIGHT[kind],
        text_encoder=FORM.text_encoder,
        text_licence=licence,
        info=info.as_dict(),
    )
    return prior, grids


if __name__ == "__main__":
    main()
