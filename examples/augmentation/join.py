"""The real tiles of a draw, and the variations of some of its tiles, as one table of labels.

    python join.py real.csv variations.csv drawn-tiles.csv > both.csv

Variations are those of a table that `largegen augment` writes; taken are those of tiles that the third table names.
"""

import csv
import sys
from pathlib import Path

COLUMNS = ("file", "row", "col", "label", "split", "patient")


def main() -> None:
    real, variations, tiles = map(read, sys.argv[1:])
    drawn = {Path(tile["file"]).name for tile in tiles}
    table = csv.DictWriter(sys.stdout, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows([*real, *(line for line in variations if Path(line["source"]).name in drawn)])


def read(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
