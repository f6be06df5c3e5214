"""A made-up whole slide, half glass, through `largegen generate --size full` with a tiny model: time, memory and disk.

Each size is a process of its own, as are its embedding and its dry run, whose predictions stand beside what it took.
The model has random weights: windows of 512 px, 8 px and 4 channels a latent, as published models have, but hardly any
network.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from measure import machine, report, run, run_measured
from safetensors.torch import save_file

from largegen.models.autoencoder import Autoencoder
from largegen.models.denoiser import PRESETS
from largegen.models.encoder import load_encoder
from largegen.models.info import ModelInfo, TrainingSlide
from largegen.models.local_autoencoder import LocalAutoencoder
from largegen.models.model import build_model
from largegen.runtime.files import write_json

TILE_PX, DIM = 512, 16
SIZES = [(20_000, 15_000), (40_000, 30_000)]  # px: 0.3 and 1.2 gigapixels


def save_tiny_model(folder: Path, levels: int = 1) -> Path:
    """A model directory with its encoder, of random weights; of several magnifications: with a Summarizer."""
    torch.manual_seed(0)
    encoder = folder / "encoder"
    encoder.mkdir(parents=True)
    net = timm.create_model("test_resnet", num_classes=DIM)
    save_file(net.state_dict(), encoder / "model.safetensors")
    config = {
        **{"format": "largegen-encoder", "architecture": "test_resnet", "width": DIM, "input_px": 64},
        **{"mean": [0.5] * 3, "std": [0.5] * 3, "licence": "CC0-1.0", "timm_kwargs": {}},
    }
    (encoder / "config.json").write_text(json.dumps(config))
    name = f"local-dir:{encoder}"
    fingerprint = load_encoder(name, device="cpu").fingerprint
    vae = LocalAutoencoder(4, (8, 8), (1, 1), (1, 1), latent_channels=4, output_channels=4)
    slides = (TrainingSlide("made-up", mpp=0.5),)
    info = ModelInfo(
        name="tiny",
        encoder=name,
        encoder_fingerprint=fingerprint,
        encoder_licence="CC0-1.0",
        licence="CC0-1.0",
        embedding_dim=DIM,
        tile_px=TILE_PX,
        trained_on=slides,
    )
    conditioner = "Summarizer" if levels > 1 else "PatchConditioner"
    model = build_model(PRESETS["tiny"], conditioner, Autoencoder(vae), DIM, TILE_PX, info, levels)
    model.save(folder / "model", encoder=encoder)
    return folder / "model"


def save_half_glass(path: Path, width: int, height: int) -> Path:
    """A pyramid of `width` x `height` px whose right half is glass."""
    import pyvips

    rng = np.random.default_rng(0)
    tissue = rng.normal((180, 120, 170), 25, (1024, 1024, 3)).clip(0, 255).astype(np.uint8)
    left = pyvips.Image.new_from_array(tissue).replicate(-(-width // 2048), -(-height // 1024))
    glass = pyvips.Image.black(width, height, bands=3).linear(1, [243, 242, 244]).cast("uchar")
    whole = glass.insert(left.crop(0, 0, width // 2, height), 0, 0).copy(interpretation="srgb", xres=2000, yres=2000)
    whole.tiffsave(str(path), tile=True, pyramid=True, bigtiff=True, compression="jpeg", Q=80)
    return path


def measured(folder: Path, model: Path, width: int, height: int, more: list[str]) -> dict[str, Any]:
    """One slide: the dry run's predictions, and what the run took."""
    import openslide

    ref, out = save_half_glass(folder / f"{width}.tif", width, height), folder / f"{width}-made.tif"
    largegen = [sys.executable, "-m", "largegen"]
    encoder = ["--encoder", f"local-dir:{folder / 'encoder'}", "--tile-px", str(TILE_PX), "--mpp", "0.5"]
    embedding = run_measured([*largegen, "embed", str(ref), "--out", str(folder), "--device", "cpu", *encoder, "-q"])
    command = [*largegen, "generate", "--embeddings", str(folder / f"{width}.h5"), "--size", "full", "--json"]
    command += ["--model", str(model), "--device", "cpu", "--out", str(out), *more]
    dry = run_measured([*command, "--dry-run"])
    took, predicted = run_measured(command), json.loads(dry.printed)
    done = json.loads(took.printed)
    with openslide.OpenSlide(out) as slide:
        assert slide.dimensions == (done["width"], done["height"]), slide.dimensions
    ref.unlink()
    tissue = predicted["tissue_tiles"] * TILE_PX**2 / 1e9
    found = {
        "px": f"{done['width']:,} x {done['height']:,}",
        "gigapixels": done["width"] * done["height"] / 1e9,
        "of tissue": tissue,
        "denoiser calls": done["denoiser_calls"],
        "embedding, processor s": embedding.processor_seconds,
        "embedding, peak MB": embedding.peak_mb * 2**20 / 1e6,
        "processor s": took.processor_seconds,
        "sampling, s": done["sample_seconds"],
        "decoding and writing, s": done["decode_seconds"],
        "all, s": took.seconds,
        "processor s per gigapixel of tissue": (took.processor_seconds - dry.processor_seconds) / tissue,
        "predicted, s": predicted["seconds"],
        "peak memory, MB": took.peak_mb * 2**20 / 1e6,
        "predicted memory, MB": predicted["memory_mb"],
        "canvas file, MB": predicted["canvas_file_mb"],
        "image, MB": out.stat().st_size / 1e6,
        "predicted image at most, MB": predicted["disk_mb"],
    }
    out.unlink()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--sizes", nargs="+", help="WxH in px, such as 40000x30000", default=None)
    args, more = parser.parse_known_args()
    sizes = [tuple(map(int, size.split("x"))) for size in args.sizes] if args.sizes else SIZES
    more = more or ["--steps", "1", "--windows", "overlap", "--stride", "64", "--guidance", "1"]
    with tempfile.TemporaryDirectory() as folder:
        model = save_tiny_model(Path(folder))
        rows = []
        for size in sizes:
            rows.append(measured(Path(folder), model, *size, more))
            print(json.dumps(rows[-1]), flush=True)
    report([dict(zip(("", *(row["px"] for row in rows)), line, strict=True)) for line in turned(rows)], None)
    if args.json:
        write_json(args.json, {"machine": machine(), "options": more, "rows": rows})


def turned(rows: list[dict[str, Any]]) -> list[tuple]:
    """What was measured as lines, sizes side by side."""
    return [(name, *(row[name] for row in rows)) for name in rows[0] if name != "px"]


if __name__ == "__main__":
    run(main)
