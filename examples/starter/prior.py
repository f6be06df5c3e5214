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
import torch.nn.functional as F
from captions import write_captions
from maps import read_manifest
from seen import LIGHT, TILE_PX, SeenGrid, known_labels, see
from torch import nn
from train import SCALES

from largegen.models.encoder import Encoder, load_encoder
from largegen.models.grid_prior import GridPrior
from largegen.models.info import ModelInfo, TrainingSlide
from largegen.training.config import LoopConfig, PriorConfig
from largegen.training.grid_vectors import caption_vectors
from largegen.training.grids import VECTOR_NOISE, GridWindows, TrainingGrid
from largegen.training.prepare_prior import new_prior
from largegen.training.run import train
from largegen.training.tasks.prior import PriorTask
from largegen.version import __version__

WINDOW = 8
READ_STEPS = 1500
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


def captions_of(kind: str, seen: SeenGrid, words: random.Random) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Write captions of every window of a grid: the first tiles (n, 2) of windows, captions (n) and shares (n, s)."""
    rooms = [range(max(1, side - WINDOW + 1)) for side in seen.grid.tissue.shape]
    places, texts, shares = [], [], []
    for row in rooms[0]:
        for col in rooms[1]:
            window = (slice(row, row + WINDOW), slice(col, col + WINDOW))
            mean = {name: float(values[window].mean()) for name, values in seen.shares.items()}
            own = write_captions(kind, seen.subject, mean, words)
            texts += own
            places += [(row, col)] * len(own)
            shares += [list(mean.values())] * len(own)
    return np.array(places), texts, np.array(shares)


def teach_to_read(prior: GridPrior, vectors: torch.Tensor, shares: torch.Tensor, labels: torch.Tensor) -> None:
    """Let the prior's first layers read captions before it is trained: what they say of shares, and which label.

    A network that tells shares and label by the vectors (n, V) of captions becomes them, for few windows teach a prior
    slowly what words mean. To read a label means the same as to be given it.
    """
    known = (shares - shares.mean(0)) / shares.std(0).clamp(min=1e-6)
    targets = torch.cat([known, F.one_hot(labels, len(prior.config.labels)).float()], 1)
    first, _, last = prior.vector
    reader = nn.Sequential(first, nn.SiLU(), nn.Linear(last.in_features, targets.shape[1]))
    optimizer = torch.optim.AdamW(reader.parameters(), 1e-3, weight_decay=0.05)
    noise = torch.Generator().manual_seed(0)
    for _ in range(READ_STEPS):
        chosen = torch.randint(len(vectors), (256,), generator=noise)
        near = (
            vectors[chosen]
            + VECTOR_NOISE * torch.randn(256, vectors.shape[1], generator=noise) / vectors.shape[1] ** 0.5
        )
        loss = (reader(near * vectors.shape[1] ** 0.5) - targets[chosen]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"captions read: {1 - loss.item() / targets.var(0).mean().item():.0%} of the variance", flush=True)
    given = prior.label.weight[:-1] - prior.label.weight[-1:]
    meaning = torch.cat([torch.randn(known.shape[1], given.shape[1], generator=noise), given]).T
    with torch.no_grad():
        last.weight.copy_(meaning @ reader[2].weight)
        last.bias.copy_(meaning @ reader[2].bias)


def make_prior(kind: str, seen: list[SeenGrid], encoder: Encoder) -> tuple[GridPrior, list[TrainingGrid]]:
    """A prior with new weights, and the grids with their labels and the vectors of their captions."""
    words = random.Random(0)
    places, captions, shares = zip(*(captions_of(kind, one, words) for one in seen), strict=True)
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
    labels = torch.cat([torch.full((len(own),), one.grid.label) for one, own in zip(seen, places, strict=True)])
    teach_to_read(prior, torch.cat(vectors), torch.from_numpy(np.concatenate(shares)).float(), labels)
    return prior, grids


if __name__ == "__main__":
    main()
