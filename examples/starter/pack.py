"""Pack the training images into few bytes, to carry them to another machine.

    python examples/starter/pack.py --data DIR --out DIR --mib 45

The result has the same manifest.csv and can be given to train.py. Of every image the same share is kept, a rectangle
at its top left, as large as fits.
"""

import argparse
import csv
import io
from pathlib import Path

from maps import read_manifest
from PIL import Image

ALIGN_PX = 256  # sides are multiples of this


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mib", type=float, default=45.0, help="of all images together")
    parser.add_argument("--quality", type=int, default=75, help="of the JPEGs")
    options = parser.parse_args()
    regions = read_manifest(options.data, "train")
    whole = sum(len(jpeg(Image.open(region.path), options.quality, 1.0)) for region in regions)
    share = min(1.0, (0.95 * options.mib * 2**20 / whole) ** 0.5)  # of each side
    written = 0
    for region in regions:
        path = options.out / region.path.relative_to(options.data)
        path.parent.mkdir(parents=True, exist_ok=True)
        data = jpeg(Image.open(region.path), options.quality, share)
        path.write_bytes(data)
        written += len(data)
    names = {region.path.relative_to(options.data).as_posix() for region in regions}
    with (options.data / "manifest.csv").open(newline="") as source:
        rows = csv.DictReader(source)
        kept = [row for row in rows if row["file"] in names]
    with (options.out / "manifest.csv").open("w", newline="") as target:
        writer = csv.DictWriter(target, rows.fieldnames)
        writer.writeheader()
        writer.writerows(kept)
    print(f"{len(regions)} images, {share**2:.0%} of their pixels, {written / 2**20:.1f} MiB")


def jpeg(image: Image.Image, quality: int, share: float) -> bytes:
    """That share of the image's sides, as a JPEG with chroma at half the resolution."""
    if share < 1:
        width, height = (min(side, max(ALIGN_PX, round(side * share / ALIGN_PX) * ALIGN_PX)) for side in image.size)
        image = image.crop((0, 0, width, height))
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
