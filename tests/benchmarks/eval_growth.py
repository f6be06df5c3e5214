"""Time and peak memory of `largegen eval` as the crops of a slide, compared with themselves, become more.

Each count is a process of its own, so that its peak memory is its own. Options that this script does not know go to
`largegen eval`, such as `--workers 4`.
"""

import argparse
import json
import sys
from pathlib import Path

from measure import machine, report, run, run_measured

METRICS = "fd:starter,kid:starter"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slide", type=Path, required=True)
    parser.add_argument(
        "--counts", type=int, nargs="+", default=[1_000, 10_000, 100_000], help="crops of each of both sets"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    args, more = parser.parse_known_args()
    command = [sys.executable, "-m", "largegen", "eval", "--real", str(args.slide), "--fake", str(args.slide)]
    command += ["--metrics", METRICS, "--replicates", "0", "--device", args.device, "--json", *more]
    rows = []
    for count in args.counts:
        printed, seconds, peak_mb, _ = run_measured([*command, "--crops", str(count)])
        counted = json.loads(printed)["fake"]["crops"]
        rows.append(
            {
                "crops of each set": counted,
                "wall time, s": seconds,
                "crops / s": 2 * counted / seconds,
                "peak memory, MB": peak_mb,
                f"memory, relative to {args.counts[0]:,} crops": peak_mb
                / (rows[0]["peak memory, MB"] if rows else peak_mb),
            }
        )
    report(rows, args.json, machine=machine(args.device if args.device != "auto" else "cpu"), options=more)


if __name__ == "__main__":
    run(main)
