"""How many tiles a second become embeddings: a model's encoder, and its denoiser's features at each magnification.

    python tests/benchmarks/tile_speed.py --model tissue --levels 20x 5x

Counted are tiles of the finest magnification, of which one of 5x holds 16. Networks alone, on tiles in memory: what
`largegen embed` and `largegen features` take beside that is reading. Processor seconds, so that other work on the
machine does not count.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from measure import machine, own_encoder, report, run

from largegen import load_model
from largegen.conditioning.features import BATCH_TILES, level_number
from largegen.models.denoiser_features import DenoiserFeatures
from largegen.models.feature_options import CONDITIONS, FeatureOptions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tissue")
    parser.add_argument("--levels", nargs="+", default=["20x", "5x"])
    parser.add_argument("--tiles", type=int, default=64, help="of the finest magnification")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = load_model(args.model, args.device)
    encoder = own_encoder(model)
    rows = [row("encoder", encoder, 0, args.tiles, model.tile_px)]
    for name in args.levels:
        level = level_number(model, name)
        for condition in CONDITIONS:
            features = DenoiserFeatures(model, level, FeatureOptions(condition=condition), encoder)
            rows.append(row(f"denoiser, {name}, {condition}", features, level, args.tiles, model.tile_px))
    for each in rows[1:]:
        each["times the encoder's time"] = rows[0]["tiles / s"] / each["tiles / s"]
    report(rows, args.json, machine=machine(model.device), tiles=args.tiles)


def row(name: str, encoder, level: int, tiles: int, tile_px: int) -> dict:
    """Encode tiles of a level in the batches of `largegen features`, once to warm up and once to be timed."""
    side = 2**level
    batch = max(1, BATCH_TILES // side**2)
    images = np.random.default_rng(0).integers(0, 256, (batch, side * tile_px, side * tile_px, 3), dtype=np.uint8)
    encoder.encode(images)
    rounds = max(1, tiles // (batch * side**2))
    started = time.process_time()
    for _ in range(rounds):
        encoder.encode(images)
    seconds = time.process_time() - started
    return {"what": name, "tiles / s": rounds * batch * side**2 / seconds, "times the encoder's time": 1.0}


if __name__ == "__main__":
    run(main)
