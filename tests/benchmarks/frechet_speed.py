"""Time and value of the Fréchet distance, here and in clean-fid, at the width of Inception features.

Full rank: more samples than dimensions on both sides; rank-deficient: fewer; equal: one rank-deficient set, twice.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from cleanfid.fid import frechet_distance as frechet_distance_clean
from measure import machine, report, run, timed

from largegen.metrics.distances.frechet import Gaussian, frechet_distance, gaussian_of


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--width", type=int, default=2048, help="of the features")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each; the fastest counts")
    return parser.parse_args()


def features(count: int, width: int, seed: int) -> np.ndarray:
    """(count, width) float32 with correlated entries and variances that fall over four decades, as features have."""
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(width, width)))
    deviations = (1 + 0.1 * rng.random(width)) * np.logspace(0, -2, width)
    return ((rng.normal(size=(count, width)) * deviations) @ turn + rng.normal(size=width) / 30).astype(np.float32)


def measure(name: str, a: Gaussian, b: Gaussian, repeats: int) -> dict[str, Any]:
    ours, theirs = [], []
    for _ in range(repeats):  # in turn, so that other load on the machine meets both
        ours.append(timed(frechet_distance, a, b))
        theirs.append(timed(frechet_distance_clean, a.mean, a.covariance, b.mean, b.covariance))
    seconds, seconds_clean = (min(took for _, took in runs) for runs in (ours, theirs))
    return {
        "covariances": name,
        "samples": a.count,
        "here, s": seconds,
        "clean-fid, s": seconds_clean,
        "times faster": seconds_clean / seconds,
        "value here": f"{ours[0][0]:.8f}",
        "value of clean-fid": f"{theirs[0][0]:.8f}",
    }


def main() -> None:
    args = parse()
    rows = []
    for name, count in (("full rank", 2 * args.width), ("rank-deficient", args.width // 2)):
        a, b = (gaussian_of(features(count, args.width, seed)) for seed in (1, 2))
        rows.append(measure(name, a, b, args.repeats))
    rows.append(measure("equal", a, a, args.repeats))
    report(rows, args.json, machine=machine(), width=args.width, repeats=args.repeats)


if __name__ == "__main__":
    run(main)
