"""The images of a task, its labelled tiles, and shares of these drawn at random.

    python draw.py organ --data DIR --out run/organ --side 2048
    python draw.py organ --data DIR --out run/organ --shares 0.01 0.1 1 --seeds 0 1 2 3 4

organ: which slide a tile of a histology region is of; built: whether a tile of the town is built up, by the mask of
its buildings.

Without shares writes regions/, the images of train and test, of each slide the middle of one of both. With them, when
encoder/ holds their embedding files, writes draws/<share>-<seed>.csv, which `largegen probe` reads: all test tiles, and
the share of the others, of each class alike, at least one. The draws of a seed are nested. For shares below 1 it also
writes the drawn tiles as PNG files and, for `largegen augment`, tables of them: draws/<share>-<seed>-tiles.csv of each
draw, and draws/<share>-tiles.csv of all that have the share.
"""

import argparse
import csv
import re
from pathlib import Path

import numpy as np
from PIL import Image

from largegen.embeddings.file import EmbeddingFile

Image.MAX_IMAGE_PIXELS = None

TILE_PX = 256
BLOCK = 4  # tiles in a row or column that count as one patient: they are no independent witnesses
BUILT = 0.4  # share of a tile that is roof, from which on it is built up: the median of the town
COLUMNS = ("file", "row", "col", "label", "split", "patient")
TILE_COLUMNS = ("file", "label", "split", "patient")
Files = list[tuple[Path, str]]  # with their splits
CELL_PX = 2816, 2176  # of the town's mosaic; a file's name says which


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("organ", "built"))
    parser.add_argument("--data", type=Path, required=True, help="manifest.csv and what it names")
    parser.add_argument("--out", type=Path, required=True, help="directory")
    parser.add_argument("--side", type=int, default=2048, help="of a region of a slide, px")
    parser.add_argument("--regions", type=int, default=100, help="slides, or cells of a split, at most")
    parser.add_argument("--shares", type=float, nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    files = regions(args.data, args.task, args.regions)
    if not args.shares:
        copy(files, args.out / "regions", args.side if args.task == "organ" else 10**6)
        return
    tiles = organ(files, args.out) if args.task == "organ" else built(files, args.out)
    draws = args.out / "draws"
    draws.mkdir(exist_ok=True)
    for share in args.shares:
        together = {}
        for seed in args.seeds:
            chosen = drawn(tiles, share, seed)
            save(draws / f"{share:g}-{seed}.csv", chosen, COLUMNS)
            if share < 1:
                own = cut(draws, [tile for tile in chosen if tile["split"] != "test"], args.out / "regions")
                save(draws / f"{share:g}-{seed}-tiles.csv", own, TILE_COLUMNS)
                together |= {tile["file"]: tile for tile in own}
        if share < 1:
            save(draws / f"{share:g}-tiles.csv", list(together.values()), TILE_COLUMNS)


def regions(data: Path, task: str, most: int) -> Files:
    """The files of a task and their splits: of each slide one region of train and one of test; cells of the town."""
    with (data / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = r"histology/.*-(1-4096|2-2048)\.jpg" if task == "organ" else r"aerial/banepa-town-[12][123]-.*"
    found = [(data / row["file"], row["split"]) for row in rows if re.fullmatch(wanted, row["file"])]
    if task == "organ":
        tested = sorted({subject(path) for path, split in found if split == "test"})[:most]
        return [(path, split) for path, split in found if subject(path) in tested]
    return [one for split in ("train", "test") for one in [pair for pair in found if pair[1] == split][:most]]


def copy(files: Files, folder: Path, side: int) -> None:
    """Write the middle of each image."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, _ in files:
        picture = Image.open(path).convert("RGB")
        width, height = (min(side, length) for length in picture.size)
        left, top = (picture.width - width) // 2, (picture.height - height) // 2
        box = left, top, left + width, top + height
        picture.crop(box).save(folder / f"{path.stem}.png", compress_level=1)


def subject(path: Path) -> str:
    return path.stem.rsplit("-", 2)[0]


def line(path: Path, row: int, col: int, label: str, split: str) -> dict[str, str]:
    patient = f"{path.stem} {row // BLOCK} {col // BLOCK}"
    return dict(zip(COLUMNS, (path.stem, str(row), str(col), label, split, patient), strict=True))


def organ(files: Files, out: Path) -> list[dict[str, str]]:
    """The tiles that hold tissue."""
    return [
        line(path, row, col, subject(path), split)
        for path, split in files
        for row, col in EmbeddingFile(out / "encoder" / f"{path.stem}.h5").cells.tolist()
    ]


def built(files: Files, out: Path) -> list[dict[str, str]]:
    """The tiles that lie in the mask, by how much of them is roof."""
    (mask_path,) = (files[0][0].parent / "labels").glob("*-mask-x*-y*.png")
    mask = np.asarray(Image.open(mask_path).convert("1"))
    left, top = map(int, re.findall(r"-[xy](\d+)", mask_path.name))
    found = []
    for path, split in files:
        i, j = map(int, path.stem.split("-")[2])
        for row, col in EmbeddingFile(out / "encoder" / f"{path.stem}.h5").cells.tolist():
            y, x = j * CELL_PX[1] + row * TILE_PX - top, i * CELL_PX[0] + col * TILE_PX - left
            if y >= 0 and x >= 0 and y + TILE_PX <= mask.shape[0] and x + TILE_PX <= mask.shape[1]:
                share = mask[y : y + TILE_PX, x : x + TILE_PX].mean()
                found.append(line(path, row, col, "built" if share >= BUILT else "open", split))
    return found


def drawn(tiles: list[dict[str, str]], share: float, seed: int) -> list[dict[str, str]]:
    """All test tiles, and of each class the first of the others in an order that the seed gives."""
    chosen = [tile for tile in tiles if tile["split"] == "test"]
    for label in sorted({tile["label"] for tile in tiles}):
        own = [tile for tile in tiles if tile["split"] != "test" and tile["label"] == label]
        order = np.random.default_rng(seed).permutation(len(own))
        chosen += [own[n] for n in order[: max(1, round(share * len(own)))]]
    return chosen


def cut(folder: Path, tiles: list[dict[str, str]], images: Path) -> list[dict[str, str]]:
    """Write tiles as images below the folder, and return the lines of their table."""
    (folder / "tiles").mkdir(exist_ok=True)
    rows = []
    for region in sorted({tile["file"] for tile in tiles}):
        picture = Image.open(images / f"{region}.png")
        for tile in tiles:
            if tile["file"] == region:
                row, col = int(tile["row"]), int(tile["col"])
                name, x, y = f"tiles/{region}_{row}_{col}.png", col * TILE_PX, row * TILE_PX
                if not (folder / name).exists():  # else of another draw
                    picture.crop((x, y, x + TILE_PX, y + TILE_PX)).save(folder / name, compress_level=1)
                rows.append({"file": name, **{key: tile[key] for key in TILE_COLUMNS[1:]}})
    return rows


def save(path: Path, rows: list[dict[str, str]], columns: tuple[str, ...]) -> None:
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    main()
