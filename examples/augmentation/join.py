"""Two tables of labels as one: that of real tiles, and that which `largegen augment` writes of variations.

python join.py real.csv variations/labels.csv > both.csv
"""

import csv
import sys
from pathlib import Path

COLUMNS = ("file", "row", "col", "label", "split", "patient")


def main() -> None:
    table = csv.DictWriter(sys.stdout, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    for path in map(Path, sys.argv[1:]):
        with path.open(newline="") as file:
            table.writerows(csv.DictReader(file))


if __name__ == "__main__":
    main()
