"""Parts of large images made anew, by `largegen edit` and `largegen grow` with a tiny model: time and memory.

Each run is a process of its own. The model is that of gigapixel.py, of random weights; the mask of `edit` is all but
an eighth of the side at each border, and `grow` lays an image of a quarter of the side into the middle.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from gigapixel import save_half_glass, save_tiny_model
from measure import machine, report, run, run_measured


def measured(folder: Path, model: Path, name: str, size: int, more: list[str]) -> dict[str, Any]:
    """One image of `size` px a side: what the dry run predicts, and what the run took."""
    old = size if name == "edit" else size // 4 // 512 * 512
    image, out = save_half_glass(folder / f"{name}-{size}.tif", old, old), folder / "out.tif"
    edge = size // 8
    what = ["--mask", f"{edge},{edge},{size - 2 * edge},{size - 2 * edge}"] if name == "edit" else ["--size", str(size)]
    command = [sys.executable, "-m", "largegen", name, str(image), *what, "--model", str(model), "--device", "cpu"]
    command += ["--out", str(out), "--json", *more]
    predicted = json.loads(run_measured([*command, "--dry-run"])[0])
    printed, wall, peak_mb, *_ = run_measured(command)
    done = json.loads(printed)
    for path in (image, out, folder / "out_made.geojson"):
        path.unlink()
    return {
        "command": name,
        "px a side": size,
        "made, megapixels": done["made_px"] / 1e6,
        "peak memory, MB": peak_mb,
        "predicted memory, MB": predicted["memory_mb"],
        "canvas file, MB": predicted["canvas_file_mb"],
        "sampling, s": done["sample_seconds"],
        "decoding and writing, s": done["decode_seconds"],
        "all, s": wall,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--sizes", type=int, nargs="+", default=[8192, 16384], help="sides in px")
    parser.add_argument("--commands", nargs="+", default=["edit", "grow"], choices=["edit", "grow"])
    args, more = parser.parse_known_args()
    more = more or ["--steps", "2", "--guidance", "1"]
    with tempfile.TemporaryDirectory() as folder:
        model = save_tiny_model(Path(folder))
        rows = [measured(Path(folder), model, name, size, more) for name in args.commands for size in args.sizes]
    report(rows, args.json, machine=machine(), options=more)


if __name__ == "__main__":
    run(main)
