"""Generate the middle of every test image with a new model, at several guidance scales, to look at and to measure.

    python examples/starter/preview.py --data DIR --run DIR --out DIR --guidance 1 2 4

Writes NAME.real.jpg and NAME.gG.sS.jpg. No slide reader is needed: the images are read as they are.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from encoder import TILE_PX
from maps import read_manifest
from PIL import Image

from largegen import generate, load_model
from largegen.models.encoder import load_encoder
from largegen.models.pixels import to_images, to_network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True, help="--out of train.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kinds", nargs="+", default=["tissue", "aerial"])
    parser.add_argument("--guidance", type=float, nargs="+", default=[2.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    encoder = load_encoder(f"local-dir:{options.run / 'model' / 'encoder'}", device=options.device)
    for kind in options.kinds:
        model = load_model(options.run / "model" / kind, options.device)
        for region in (region for region in read_manifest(options.data, "test") if region.kind == kind):
            image = region.read().movedim(0, -1).numpy()
            top, left = ((side - options.size) // 2 for side in image.shape[:2])
            real = image[max(top, 0) :, max(left, 0) :][: options.size, : options.size]
            rows, cols = (side // TILE_PX for side in real.shape[:2])
            real = real[: rows * TILE_PX, : cols * TILE_PX]
            tiles = real.reshape(rows, TILE_PX, cols, TILE_PX, 3).swapaxes(1, 2).reshape(-1, TILE_PX, TILE_PX, 3)
            grid = np.asarray(encoder.encode(tiles)).reshape(rows, cols, -1)
            save(real, options.out / f"{region.path.stem}.real.jpg")
            decoded = model.autoencoder.decode(model.autoencoder.encode(to_network(real[None])))[0]
            save(to_images(decoded), options.out / f"{region.path.stem}.decoded.jpg")
            for guidance in options.guidance:
                for seed in options.seeds:
                    started = time.monotonic()
                    made = generate(model, grid, steps=options.steps, guidance=guidance, seed=seed)
                    save(made, options.out / f"{region.path.stem}.g{guidance:g}.s{seed}.jpg")
                    print(f"{region.path.stem} {guidance:g} {seed}: {time.monotonic() - started:.1f} s", flush=True)


def save(image: np.ndarray, path: Path) -> None:
    Image.fromarray(image).save(path, quality=94)


if __name__ == "__main__":
    main()
