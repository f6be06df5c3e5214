"""The tables of the experiment, from the JSON files of `largegen probe`.

    python report.py run/organ/probed

A file is named <share>-<seed>-<arm>.json. Each figure is the mean over the seeds and, in brackets, their lowest and
highest; where there is one seed only, the probe's own interval, of a bootstrap over blocks of tiles. The last column is
the mean difference in accuracy, seed by seed, with its 95 % interval (Student's t): of an arm with variations to the
real tiles alone, of other features to the encoder's.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

REAL = "real"
FIGURES = ("accuracy", "auc")


def main() -> None:
    folder = Path(sys.argv[1])
    print(text(read(folder)))


def read(folder: Path) -> dict[tuple[str, str, str, str], dict[int, dict[str, Any]]]:
    """Figures by share, arm, set of features and classifier, and by seed."""
    found: dict = defaultdict(dict)
    task = folder.absolute().parent.name
    for path in sorted(folder.glob("*.json")):
        share, seed, arm = path.stem.split("-", 2)
        for row in json.loads(path.read_text())["results"]:
            parts = Path(row["features"]).parts[-2:]
            name = {"files": "encoder"}.get(parts[-1], "/".join(part for part in parts if part != task))
            found[share, arm, name, row["classifier"]][int(seed)] = row["figures"]
    return found


def text(found) -> str:
    lines = [
        "| real tiles | arm | features | classifier | accuracy | AUC | difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for (share, arm, name, classifier), by_seed in sorted(found.items(), key=lambda item: (float(item[0][0]), item[0])):
        cells = [f"{100 * float(share):g} %", arm, name, classifier, *(spread(by_seed, f) for f in FIGURES)]
        plain = (share, REAL, "encoder", classifier)
        cells.append("" if (arm, name) == plain[1:3] else gain(by_seed, found.get(plain, {})))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(by_seed: dict[int, dict[str, Any]], figure: str) -> str:
    values = [figures[figure]["value"] for figures in by_seed.values()]
    low, high = min(values), max(values)
    if len(values) == 1:
        (figures,) = by_seed.values()
        low, high = figures[figure]["low"], figures[figure]["high"]
    return f"{np.mean(values):.3f} ({low:.3f}-{high:.3f})"


def gain(by_seed: dict[int, dict[str, Any]], plain: dict[int, dict[str, Any]]) -> str:
    if len(plain) == 1:  # all tiles are one draw only
        plain = dict.fromkeys(by_seed, *plain.values())
    common = sorted(by_seed.keys() & plain.keys())
    differences = np.array([by_seed[n]["accuracy"]["value"] - plain[n]["accuracy"]["value"] for n in common])
    if len(differences) < 2:
        return f"{differences.mean():+.3f}" if len(differences) else ""
    half = t.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / np.sqrt(len(differences))
    return f"{differences.mean():+.3f} ± {half:.3f}"


if __name__ == "__main__":
    main()
