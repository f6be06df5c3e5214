"""A file (.npz) with the statistics of a set of images and all that they depend on, to compare with later."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from largegen.errors import InputError, first_line
from largegen.metrics.distances.frechet import Gaussian
from largegen.runtime.files import atomic, not_damaged

FORMAT, VERSION = "largegen-statistics", 1
ARRAYS = ("count", "mean", "covariance", "features", "key", "source")


@dataclass(frozen=True)
class Statistics:
    """What is kept of the features of a set of images."""

    gaussian: Gaussian
    features: np.ndarray  # (M, D) float32: all of them or a random sample, for metrics that need more than the Gaussian
    key: dict[str, Any]  # JSON values that must be equal on both sides: network, preprocessing, size, resolution
    source: dict[str, Any]  # JSON values that tell where it comes from: paths, counts, seed


def save_statistics(path: Path, all_statistics: Sequence[Statistics], job: str = "") -> None:
    """Write the statistics of a set in several spaces to `path`, atomically. Raises OutputError where it cannot."""
    arrays: dict[str, Any] = {"format": FORMAT, "version": VERSION, "spaces": len(all_statistics), "job": job}
    for number, statistics in enumerate(all_statistics):
        content = {
            "count": statistics.gaussian.count,
            "mean": statistics.gaussian.mean,
            "covariance": statistics.gaussian.covariance,
            "features": np.asarray(statistics.features, np.float32),
            "key": json.dumps(statistics.key),
            "source": json.dumps(statistics.source),
        }
        arrays |= {f"{number}/{name}": value for name, value in content.items()}
    with atomic(path) as temporary, temporary.open("wb") as file:  # a name without .npz would get one
        np.savez(file, **arrays)


def load_statistics(path: Path) -> list[Statistics]:
    """Read what `save_statistics` wrote.

    Raises:
        InputError: Another file, a damaged one, or another version.
    """
    content = _read(Path(path))
    if {"mu", "sigma"} <= content.keys():
        raise InputError(f"{path}: clean-fid's statistics do not say what they were made with; make them with largegen")
    if str(content.get("format")) != FORMAT:
        raise InputError(f"{path}: not a file of largegen's statistics")
    if str(content.get("version")) != str(VERSION):
        raise InputError(f"{path}: version {content.get('version')}, and this largegen reads {VERSION}; make it again")
    spaces = range(_whole(content.get("spaces"), path))
    missing = [name for n in spaces for array in ARRAYS if (name := f"{n}/{array}") not in content]
    if missing or not spaces:
        raise InputError(f"{path}: damaged, it lacks {', '.join(missing) or 'all statistics'}; make it again")
    return [_statistics(path, [content[f"{number}/{array}"] for array in ARRAYS]) for number in spaces]


def _statistics(path: Path, arrays: Sequence[np.ndarray]) -> Statistics:
    count, mean, covariance, features, key, source = arrays
    dim = (mean.size,)
    if (mean.shape, covariance.shape, features.shape[1:]) != (dim, dim * 2, dim):
        raise InputError(f"{path}: damaged, its arrays are of different widths; make it again")
    try:
        key, source = (json.loads(str(text)) for text in (key, source))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: damaged, its key is no JSON: {error}; make it again") from error
    if not isinstance(key, dict) or "network" not in key:
        raise InputError(f"{path}: damaged, it does not say of what network it is; make it again")
    if not all(np.isfinite(array).all() for array in (mean, covariance, features)):
        raise InputError(f"{path}: damaged, its arrays hold NaN or infinite values; make it again")
    return Statistics(Gaussian(_whole(count, path), mean, covariance), features, key, source)


def _whole(array: np.ndarray | None, path: Path) -> int:
    if array is None:
        return 0
    if array.ndim or array.dtype.kind not in "iu":
        raise InputError(f"{path}: damaged, a count in it is no whole number; make it again")
    return int(array)


def check_same_key(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """Raise an InputError that names every entry in which the keys of two sets of statistics differ, if any do."""
    differences = [
        f"{name} is {_shown(a, name)} in one and {_shown(b, name)} in the other"
        for name in sorted(a.keys() | b.keys())
        if _shown(a, name) != _shown(b, name)
    ]
    if differences:
        raise InputError(f"statistics that cannot be compared: {'; '.join(differences)}; make both the same way")


def _shown(key: Mapping[str, Any], name: str) -> str:
    """Show an entry as a file would hold it, where a tuple is a list."""
    return json.dumps(key[name], sort_keys=True) if name in key else "absent"


def _read(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of an npz. Raises InputError for a file that is none, or damaged."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with path.open("rb") as opened:
            if not zipfile.is_zipfile(opened):
                raise InputError(f"{path}: not an .npz file, or not all of one; give statistics that largegen saved")
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        not_damaged(error, path)
        raise InputError(f"{path}: damaged: {first_line(error)}; make it again") from error
