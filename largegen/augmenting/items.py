"""The labelled images that are varied: from a CSV file, or from a folder for each class."""

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from largegen.errors import InputError
from largegen.runtime.outputs import protect
from largegen.runtime.tables import read_labelled, read_splits
from largegen.slides.find import find_files

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Item:
    """An image or slide to be varied."""

    name: str  # its stem, which no other has
    path: Path
    label: str
    patient: str  # "" where that is not known


def read_items(labels: Path) -> list[Item]:
    """Read what is to be varied: what is in train, where the table has splits; never a test image.

    Args:
        labels: A directory with a folder for each class, or a CSV file with the columns `file` and `label`, and perhaps
            `split` and `patient`. Files are sought beside the CSV file, then in the working directory.

    Raises:
        InputError: For files that are not there, names that occur twice, a patient in two splits, or nothing to vary.
    """
    found = _of_folders(labels) if labels.is_dir() else _of_table(labels)
    twice = [name for name, count in Counter(item.name for item in found).items() if count > 1]
    if twice:
        raise InputError(
            f"{labels}: {len(twice)} names occur more than once, {twice[0]} first: their outputs would, too"
        )
    protect([item.path for item in found])
    return found


def _of_folders(folder: Path) -> list[Item]:
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    if not classes:
        raise InputError(f"{folder}: no folders, one for each class; or give a CSV file")
    return [Item(path.stem, path, each.name, "") for each in classes for path in find_files([each], by_products=False)]


def _of_table(table: Path) -> list[Item]:
    rows = read_labelled(table)
    patients = [line.cells.get("patient") or line.cells["file"] for line in rows]
    splits = read_splits(table, rows, patients)
    chosen = [line for line, split in zip(rows, splits or ["train"] * len(rows), strict=True) if split == "train"]
    if not chosen:
        raise InputError(f"{table}: no line is in train, and others are never varied")
    if len(chosen) < len(rows):
        log.info("%s: %d of %d lines are in train; the others are left out", table, len(chosen), len(rows))
    paths = [_found(table, line.cells["file"]) for line in chosen]
    missing = [line.cells["file"] for line, path in zip(chosen, paths, strict=True) if path is None]
    if missing:
        raise InputError(f"{table}: {len(missing)} of {len(chosen)} files are not there, {missing[0]} first")
    return [
        Item(path.stem.removesuffix(".ome"), path, line.cells["label"], line.cells.get("patient", ""))
        for line, path in zip(chosen, paths, strict=True)
        if path is not None
    ]


def _found(table: Path, name: str) -> Path | None:
    """Find a file beside the table that names it, or in the working directory."""
    return next((path for path in (table.parent / name, Path(name)) if path.exists()), None)
