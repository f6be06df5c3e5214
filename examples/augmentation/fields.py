"""What features of several magnifications are to be compared with, each with a row for every fine tile.

    python fields.py --encoder DIR --out DIR
    python fields.py --joined DIR/20x+5x --out DIR

Of embedding files of an encoder: the mean over the fine tiles that a tile of the coarser magnification covers. Of files
that `largegen features --levels 20x,5x` joins, beside which those of 20x lie: the features of the coarser one alone.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from largegen.embeddings.file import EmbeddingFile, write_embeddings

SIDE = 4  # fine tiles in a row of a coarse one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path)
    parser.add_argument("--joined", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.encoder:
        each(args.encoder, args.out, "mean of the field", field)
    if args.joined:
        fine, coarse = args.joined.name.split("+")
        before = {path.name: EmbeddingFile(path).dim for path in (args.joined.parent / fine).glob("*.h5")}
        each(args.joined, args.out, f"{coarse} alone", lambda file: file.features()[:, before[file.path.name] :])


def each(folder: Path, out: Path, what: str, features) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob("*.h5")):
        file = EmbeddingFile(path)
        rows = features(file)
        settings = replace(file.settings, encoder=f"{file.settings.encoder}, {what}", dim=rows.shape[1])
        background = np.zeros(rows.shape[1], np.float32)
        write_embeddings(out / path.name, settings, file.coords(), rows, background, file.coords_attrs)


def field(file: EmbeddingFile) -> np.ndarray:
    """The mean embedding of the fine tiles that lie under the same coarse one, for each: (N, D)."""
    _, which = np.unique(file.cells // SIDE, axis=0, return_inverse=True)
    features = file.features()
    sums = np.zeros((which.max() + 1, file.dim), np.float32)
    np.add.at(sums, which, features)
    return (sums / np.bincount(which)[:, None])[which]


if __name__ == "__main__":
    main()
