"""Large images by `largegen edit`, `grow` and `upscale` with a tiny model: memory and time, and what --dry-run says.

Each run is a process of its own. The model is that of gigapixel.py, of random weights, four magnifications for
`upscale`, which makes the image of 5x and is not inverted; the mask of `edit` is all but an eighth of the side at each
border, and `grow` lays an image of a quarter of the side into the middle. `published` is `upscale --method published`.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from gigapixel import save_half_glass, save_tiny_model
from measure import machine, report, run, run_measured

COMMANDS = ("edit", "grow", "upscale", "published")


def arguments(name: str, size: int) -> list[str]:
    """The command and its own options, for a result of `size` px a side."""
    edge = size // 8
    if name == "edit":
        return ["edit", "--mask", f"{edge},{edge},{size - 2 * edge},{size - 2 * edge}", "--guidance", "1"]
    if name == "grow":
        return ["grow", "--size", str(size), "--guidance", "1"]
    how = ["--method", "published", "--inner-steps", "1"] if name == "published" else []
    return ["upscale", "--mag", "5", "--start", "noise", "--invert-steps", "0", *how]


def measured(folder: Path, model: Path, name: str, size: int, more: list[str]) -> dict[str, Any]:
    """One image of `size` px a side: what the dry run predicts, and what the run took."""
    old = size // 4 // 512 * 512 if name == "grow" else size
    image, out = save_half_glass(folder / f"{name}-{size}.tif", old, old), folder / "out.tif"
    command = [sys.executable, "-m", "largegen", *arguments(name, size), str(image), "--model", str(model)]
    command += ["--device", "cpu", "--out", str(out), "--json", *more]
    predicted = json.loads(run_measured([*command, "--dry-run"]).printed)
    took = run_measured(command)
    done = json.loads(took.printed)
    for path in (image, out, folder / "out_made.geojson", folder / "out.tif.json"):
        path.unlink(missing_ok=True)
    return {
        "command": name,
        "px a side": size,
        "made, megapixels": done.get("made_px", size**2) / 1e6,
        "peak memory, MB": took.peak_mb * 2**20 / 1e6,
        "predicted memory, MB": predicted["memory_mb"],
        "canvas file, MB": predicted["canvas_file_mb"],
        "sampling, s": done["sample_seconds"],
        "decoding and writing, s": done["decode_seconds"],
        "all, s": took.seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--sizes", type=int, nargs="+", default=[8192, 16384], help="sides in px")
    parser.add_argument("--commands", nargs="+", default=list(COMMANDS), choices=COMMANDS)
    args, more = parser.parse_known_args()
    more, rows = more or ["--steps", "1"], []
    with tempfile.TemporaryDirectory() as folder:
        plain, zooming = (save_tiny_model(Path(folder) / str(levels), levels) for levels in (1, 4))
        for name in args.commands:
            for size in args.sizes:
                model = plain if name in ("edit", "grow") else zooming
                rows.append(measured(Path(folder), model, name, size, more))
                report(rows, args.json, machine=machine(), options=more)


if __name__ == "__main__":
    run(main)
