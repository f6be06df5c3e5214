"""How good the bundled models' grid priors are: their tiles, their layout, what they know by heart, label and text.

    python tests/benchmarks/prior_quality.py --data images --models run/model --kind tissue

The images are those that examples/starter/prior.py was trained with; its `test` split is what samples are held against.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from measure import machine, options, run, table
from metrics import ridge
from prior_figures import by_heart, distances, gaussian_like, shuffled_like, windows_of

from largegen.metrics.distances.precision_recall import precision_recall
from largegen.models.encoder import load_encoder
from largegen.models.grid_prior import GridPrior, load_prior
from largegen.runtime.files import write_json
from largegen.sampling.imagine import sample_cells
from largegen.sampling.settings import Imagining

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "starter"))
PROMPTS = 40  # of the test of text
GUIDANCES = (0.0, 1.0, 2.0, 4.0)


def sample(prior: GridPrior, count: int, seed: int = 0, **request: object) -> np.ndarray:
    """Sample windows: canvases (count, side, side, K), and glass as zeros."""
    side = int(prior.config.window)
    cells = [sample_cells(prior, side, side, Imagining(**request), seed + number)[0] for number in range(count)]
    canvas = torch.stack(cells).movedim(1, -1).numpy()
    return np.where(canvas[..., -1:] > 0, canvas[..., :-1], 0)


def compared(prior: GridPrior, training: np.ndarray, test: np.ndarray, count: int) -> list[dict]:
    """The prior beside the floor and two baselines."""
    rng = np.random.default_rng(0)
    half = len(training) // 2
    order = rng.permutation(len(training))
    sets = {
        "training windows (floor)": training[order[:count]],
        "prior": sample(prior, count),
        "Gaussian of windows": gaussian_like(training, count, rng),
        "shuffled training tiles": shuffled_like(training, count, rng),
    }
    rows = []
    for name, windows in sets.items():
        tiles, pairs = distances(test, windows)
        flat = (part.reshape(-1, part.shape[-1]) for part in (test, windows))
        precision, recall = precision_recall(*flat)
        known = training[order[half:]] if "floor" in name else training
        own = training[order[:half]] if "floor" in name else windows
        row = {"windows": name, "FD of tiles": f"{tiles:.2f}", "FD of neighbours": f"{pairs:.2f}"}
        heart = {"nearest training window": f"{by_heart(own, known):.3f}"}
        rows.append(row | {"precision": f"{precision:.2f}", "recall": f"{recall:.2f}"} | heart)
    unknown = dict.fromkeys(rows[0]) | {"windows": "test windows"}
    return [*rows, unknown | {"nearest training window": f"{by_heart(test, training):.3f}"}]


def label_accuracy(prior: GridPrior, tiles: np.ndarray, labels: np.ndarray) -> float:
    """The part of sampled tissue tiles in which a linear probe sees the label that was asked for."""
    names = list(prior.config.labels)
    targets = np.eye(len(names))[labels]
    asked = np.concatenate([sample(prior, 2, label=name).reshape(-1, tiles.shape[1]) for name in names])
    wanted = np.repeat(np.arange(len(names)), len(asked) // len(names))
    tissue = asked.any(1)
    said = ridge(tiles, targets)(asked).argmax(1)
    return float((said == wanted)[tissue].mean())


def text_correlation(prior: GridPrior, kind: str, tiles: np.ndarray, shares: dict, guidance: float) -> float:
    """The mean correlation, over the shares, of what is asked for in held-out words with what a probe measures."""
    from captions import HELD_OUT_AMOUNTS, held_out_prompt

    found = []
    for name, values in shares.items():
        asked = np.tile([0.0, 0.1, 0.3, 0.8], -(-PROMPTS // (len(HELD_OUT_AMOUNTS) * len(shares))))
        prompts = [held_out_prompt(name, share) for share in asked]
        grids = [sample(prior, 1, n, prompt=text, prior_guidance=guidance)[0] for n, text in enumerate(prompts)]
        flat = np.stack(grids).reshape(-1, tiles.shape[1])
        measured = ridge(tiles, values[:, None])(flat).reshape(len(asked), -1).mean(1)
        found.append(np.corrcoef(asked, measured)[0, 1])
    return float(np.mean(found))


def main() -> None:
    parser = options(__doc__ or "", needs_ref=False)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True, help="where train.py and prior.py put the models")
    parser.add_argument("--kind", choices=("tissue", "aerial"), default="tissue")
    parser.add_argument("--count", type=int, default=100, help="of windows that are sampled")
    parser.add_argument("--images", type=int, help="use only so many images of each split, to try it")
    parser.add_argument("--no-text", action="store_true", help="leave out what needs largegen[text]")
    args = parser.parse_args()
    from maps import read_manifest
    from prior import read_grid, subject_of

    prior = load_prior(args.models / args.kind / "prior", args.device)
    encoder = load_encoder(f"local-dir:{args.models / 'encoder'}", device=args.device)
    subjects, canvases, shares, labels = subject_of(args.data), {}, {}, []
    for split in ("train", "test"):
        regions = [one for one in read_manifest(args.data, split) if one.kind == args.kind][: args.images]
        canvases[split] = []
        for region in regions:
            grid, measured = read_grid(args.kind, region.read().movedim(0, -1).numpy(), encoder, region.path.stem)
            canvas = prior.to_canvas(torch.from_numpy(grid.features), torch.from_numpy(grid.tissue))
            canvases[split].append(canvas[:-1].movedim(0, -1).numpy())
            if split == "train":
                labels += [list(prior.config.labels).index(subjects[region.path.stem][0])] * grid.tissue.size
                for name, values in measured.items():
                    shares.setdefault(name, []).append(values.ravel())
    side = int(prior.config.window)
    training, test = windows_of(canvases["train"], side, 2), windows_of(canvases["test"], side, 4)
    tiles = np.concatenate([canvas.reshape(-1, canvas.shape[-1]) for canvas in canvases["train"]])
    shares = {name: np.concatenate(values) for name, values in shares.items()}
    start = time.perf_counter()
    rows = compared(prior, training, test, args.count)
    print(table(rows))
    found = {"compared": rows, "seconds": time.perf_counter() - start, "machine": machine()}
    found["label accuracy"] = label_accuracy(prior, tiles, np.array(labels))
    print(f"label: a linear probe sees it in {found['label accuracy']:.0%} of the tiles that hold tissue")
    if not args.no_text:
        text = {g: text_correlation(prior, args.kind, tiles, shares, g) for g in GUIDANCES}
        found["text correlation"] = text
        print("text:", ", ".join(f"guidance {g:g}: r = {r:.2f}" for g, r in text.items()))
    if args.json:
        write_json(args.json, found)


if __name__ == "__main__":
    run(main)
