"""Time per pixel and peak memory of `largegen generate` as the image grows.

Each size is a process of its own, so that its peak memory is its own. Options that this script does not know go to
`largegen generate`, such as `--windows overlap --steps 50`.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import median

from measure import machine, options, report, run, run_measured


def parse() -> tuple[argparse.Namespace, list[str]]:
    parser = options(__doc__, needs_ref=False)
    parser.add_argument("--ref", type=Path, required=True, help="reference slide, as large as the largest size")
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024, 2048, 4096], help="sides of the images, px")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each size, in turn; the median counts")
    return parser.parse_known_args()


def generate_once(args: argparse.Namespace, more: list[str], size: int) -> dict[str, float]:
    """One image by the command line, the reference embedded anew: its times in seconds and peak memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "largegen", "generate", "--ref", str(args.ref), "--size", str(size), "--json"]
        command += ["--model", args.model, "--device", args.device, "--cache", f"{folder}/cache"]
        printed, seconds, peak_mb, _ = run_measured([*command, "--out", f"{folder}/image.tif", *more])
    done = json.loads(printed)
    work = done["sample_seconds"] + done["decode_seconds"]
    return {"wall": seconds, "work": work, "peak_mb": peak_mb, "calls": done["denoiser_calls"]}


def main() -> None:
    args, more = parse()
    runs: dict[int, list[dict[str, float]]] = {size: [] for size in args.sizes}
    for _ in range(args.repeats):
        for size in args.sizes:
            runs[size].append(generate_once(args, more, size))
    middle = {size: {key: median(one[key] for one in runs[size]) for key in runs[size][0]} for size in args.sizes}
    per_px = {size: middle[size]["work"] / size**2 * 1e6 for size in args.sizes}
    base = 1024 if 1024 in middle else args.sizes[0]
    rows = [
        {
            "size, px": str(size),
            "denoiser calls": int(found["calls"]),
            "wall time, s": found["wall"],
            "sampling and decoding, s": found["work"],
            "of which per megapixel, s": per_px[size],
            f"per pixel, relative to {base} px": per_px[size] / per_px[base],
            "peak memory, MB": found["peak_mb"],
            f"memory, relative to {base} px": found["peak_mb"] / middle[base]["peak_mb"],
        }
        for size, found in middle.items()
    ]
    report(rows, args.json, machine=machine(), options=more, runs=runs)


if __name__ == "__main__":
    run(main)
