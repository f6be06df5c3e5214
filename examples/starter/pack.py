"""Pack the training images into few bytes, to carry them to another machine, in several parts if one is too much.

    python examples/starter/pack.py --data DIR --out DIR --mib 20 57

Every part holds a horizontal band of every image; copied together (`cp -r OUT/0/. OUT/1/. DATA`) they can be given to
train.py. One part alone can, too. Of images that do not fit the lower end is left out.
"""

import argparse
import csv
import io
import itertools
from pathlib import Path

from maps import read_manifest
from PIL import Image

ALIGN_PX = 16  # bands are cut between a JPEG's blocks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mib", type=float, nargs="+", default=[45.0], help="of each part")
    parser.add_argument("--quality", type=int, default=75, help="of the JPEGs")
    options = parser.parse_args()
    regions = read_manifest(options.data, "train")
    images = [Image.open(region.path).convert("RGB") for region in regions]
    whole = sum(len(jpeg(image, options.quality)) for image in images) / 2**20
    ends, total = [0.0], 0.0
    for mib in options.mib:
        total += mib * 0.99
        ends.append(min(1.0, total / whole))
    for number, (begin, end) in enumerate(itertools.pairwise(ends)):
        written = 0
        for region, image in zip(regions, images, strict=True):
            top, bottom = (round(part * image.height / ALIGN_PX) * ALIGN_PX for part in (begin, end))
            band = image.crop((0, top, image.width, image.height if end == 1 else bottom))
            path = options.out / str(number) / region.path.relative_to(options.data)
            path.parent.mkdir(parents=True, exist_ok=True)
            data = jpeg(band, options.quality)
            path.with_suffix(f".band{number}.jpg").write_bytes(data)
            written += len(data)
        write_manifest(options.data, options.out / str(number), {region.path for region in regions})
        print(f"part {number}: {len(regions)} images, {begin:.0%} to {end:.0%} of each, {written / 2**20:.1f} MiB")


def write_manifest(data: Path, out: Path, kept: set[Path]) -> None:
    """Copy the rows of the images that are kept."""
    with (data / "manifest.csv").open(newline="") as source, (out / "manifest.csv").open("w", newline="") as target:
        rows = csv.DictReader(source)
        writer = csv.DictWriter(target, rows.fieldnames)
        writer.writeheader()
        writer.writerows(row for row in rows if data / row["file"] in kept)


def jpeg(image: Image.Image, quality: int) -> bytes:
    """The image as a JPEG with chroma at half the resolution."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True, progressive=True)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
