"""How good the bundled models' grid priors are: their tiles, their layout, what they know by heart, label and text.

    python tests/benchmarks/prior_quality.py --data images --model tissue --work run/priors

The images are those that examples/starter/prior.py was trained with; its `test` split is what samples are held against.
Figures are of embeddings as the denoiser takes them: glass is the embedding of an empty tile.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from measure import machine, options, own_encoder, run, table
from prior_figures import by_heart, figures_of, gaussian_like, shuffled_like, windows_of
from yardsticks import r_squared, ridge

from largegen.models.grid_prior import SCHEDULE, GridPrior, load_prior
from largegen.models.model import load_model
from largegen.runtime.files import write_json
from largegen.sampling.canvas import sample_canvas
from largegen.sampling.imagine import condition_of, find_prior
from largegen.sampling.settings import Imagining

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "starter"))
PROMPTS = 40  # of the test of text, at least, over all shares
AMOUNTS = 4  # that are asked for, from none to most
GUIDANCES = (0.0, 1.0, 2.0, 4.0)
QUICK = 25  # steps, where many grids are sampled


def sample(prior: GridPrior, count: int, seed: int = 0, **request: object) -> tuple[np.ndarray, np.ndarray]:
    """Sample windows: embeddings (count, side, side, D) and tissue (count, side, side); apart on one canvas."""
    side, imagining = int(prior.config.window), Imagining(**request)
    condition, null = condition_of(prior, imagining), condition_of(prior, Imagining())
    with torch.autocast(prior.device.type, torch.bfloat16):  # several times as fast as float32
        canvas = sample_canvas(
            prior.eps,
            lambda places: condition.expand(len(places), -1, -1),
            SCHEDULE,
            (prior.channels, side, side * count),
            replace(imagining.sampling(side, seed), stride=side),
            window=side,
            null=null,
            device=prior.device,
        )
    features, tissue = prior.from_canvas(canvas[0].unflatten(2, (count, side)).movedim(2, 0))
    return features.numpy(), tissue.numpy()


def compared(training: np.ndarray, test: np.ndarray, windows: np.ndarray) -> list[dict]:
    """The prior's windows beside the floor and two baselines; precision and recall of as many tiles of each."""
    rng, count = np.random.default_rng(0), len(windows)
    order = rng.permutation(len(training))
    sets = {
        "training windows (floor)": training[order[:count]],
        "**prior**": windows,
        "Gaussian of windows": gaussian_like(training, count, rng).astype(np.float32),
        "shuffled training tiles": shuffled_like(training, count, rng),
    }
    heart = {name: by_heart(own, training) for name, own in sets.items()}
    heart["training windows (floor)"] = by_heart(training[order[:count]], training[order[count:]])
    rows = [
        {"windows": name, **figures_of(test, own), "nearest training window": heart[name]} for name, own in sets.items()
    ]
    unknown = dict.fromkeys(rows[0]) | {"windows": "test windows"}
    return [*rows, unknown | {"nearest training window": by_heart(test, training)}]


def label_accuracy(prior: GridPrior, seen: dict, guidance: float, count: int = 2) -> tuple[float, float]:
    """Parts of the tissue tiles in which a linear probe sees the right label: of samples, and of test images."""
    names = list(prior.config.labels)
    tiles, labels, _ = tiles_of(prior, seen["train"])
    probe = ridge(tiles, np.eye(len(names))[labels])
    right, tissue = [], []
    for number, name in enumerate(names):
        features, kept = sample(prior, count, label=name, prior_guidance=guidance, prior_steps=QUICK)
        right.append(probe(features[kept]).argmax(1) == number)
        tissue.append(kept.mean())
    print("tissue:", ", ".join(f"{name} {part:.0%}" for name, part in zip(names, tissue, strict=True)))
    print("seen:", ", ".join(f"{name} {part.mean():.0%}" for name, part in zip(names, right, strict=True)))
    held_out, own, _ = tiles_of(prior, seen["test"])
    return float(np.concatenate(right).mean()), float((probe(held_out).argmax(1) == own).mean())


def tiles_of(prior: GridPrior, seen: list) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Embeddings (N, D), labels (N,) and shares (N,) of the tissue tiles of grids."""
    names = list(prior.config.labels)
    tiles = np.concatenate([one.grid.features[one.grid.tissue] for one in seen])
    labels = np.concatenate([np.full(one.grid.tissue.sum(), names.index(one.label)) for one in seen])
    shares = {name: np.concatenate([one.shares[name][one.grid.tissue] for one in seen]) for name in seen[0].shares}
    return tiles, labels, shares


def text_correlations(prior: GridPrior, probes: dict, guidance: float) -> dict[str, float]:
    """By share, the correlation of what is asked for in held-out words with what a probe sees in the whole grid."""
    from captions import held_out_prompt

    found, times = {}, -(-PROMPTS // (AMOUNTS * len(probes)))
    for name, probe in probes.items():
        measured = []
        for amount in range(AMOUNTS):
            request = {"prompt": held_out_prompt(name, amount), "prior_guidance": guidance, "prior_steps": QUICK}
            features, tissue = sample(prior, times, amount, **request)
            shares = probe(features.reshape(-1, features.shape[-1])).reshape(tissue.shape)
            seen = 1 - tissue if name == "glass" else np.where(tissue, shares, 0)
            measured += seen.mean((1, 2)).tolist()
        asked = np.arange(AMOUNTS).repeat(times)
        found[name] = float(np.corrcoef(asked, measured)[0, 1]) if np.std(measured) else 0.0
    return found


def main() -> None:
    parser = options(__doc__ or "", needs_ref=False)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--prior", type=Path, help="default: the model's own")
    parser.add_argument("--work", type=Path, required=True, help="where embeddings are kept, as prior.py's --out")
    parser.add_argument("--count", type=int, default=100, help="of windows that are sampled")
    parser.add_argument("--images", type=int, help="use only so many images of each split, to try it")
    parser.add_argument("--no-text", action="store_true", help="leave out what needs largegen[text]")
    args = parser.parse_args()
    from maps import read_manifest
    from seen import see

    model = load_model(args.model, args.device)
    kind, encoder = "tissue" if model.mpp else "aerial", own_encoder(model)
    prior = load_prior(args.prior, "cpu") if args.prior else find_prior(model, Imagining()).cpu()
    seen = {}
    for split in ("train", "test"):
        regions = [one for one in read_manifest(args.data, split) if one.kind == kind][: args.images]
        seen[split] = see(kind, regions, encoder, args.work / "embeddings", args.data)
    background, side = prior.background.numpy(), int(prior.config.window)
    grids = {
        split: [np.where(one.grid.tissue[..., None], one.grid.features, background) for one in own]
        for split, own in seen.items()
    }
    training, test = (windows_of(grids[split], side, stride) for split, stride in (("train", 2), ("test", 4)))
    start = time.process_time()
    windows, _ = sample(prior, args.count)
    found = {"seconds a window": (time.process_time() - start) / args.count, "machine": machine()}
    found["compared"] = compared(training, test, windows)
    print(f"{len(training)} training windows, {len(test)} test windows, {found['seconds a window']:.2f} s a sample")
    print(table(found["compared"]), flush=True)
    for guidance in (1.0, 2.0, 4.0):
        found[f"label, guidance {guidance:g}"] = accuracy = label_accuracy(prior, seen, guidance)
        print("label, guidance {:g}: {:.0%} of sampled tissue tiles; {:.0%} of test tiles".format(guidance, *accuracy))
    if not args.no_text:
        tiles, _, shares = tiles_of(prior, seen["train"])
        probes = {name: ridge(tiles, values[:, None]) for name, values in shares.items()}
        held_out, _, true = tiles_of(prior, seen["test"])
        sight = {
            name: r_squared(probe(held_out), true[name][:, None]) for name, probe in probes.items() if true[name].any()
        }
        print("probes, R2 on test tiles:", ", ".join(f"{name} {value:.2f}" for name, value in sight.items()))
        rows = []
        for guidance in GUIDANCES:
            by_share = text_correlations(prior, probes, guidance)
            rows.append({"guidance": guidance, "mean": float(np.mean(list(by_share.values()))), **by_share})
        found["text"] = rows
        print(table(rows))
    if args.json:
        write_json(args.json, found)


if __name__ == "__main__":
    run(main)
