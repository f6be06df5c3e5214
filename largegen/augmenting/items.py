"""The labelled images that are varied, and those held out: from a CSV file, or from a folder for each class."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from largegen.errors import InputError
from largegen.runtime.outputs import protect
from largegen.runtime.tables import Line, read_labelled, read_splits
from largegen.slides.find import SUFFIXES, find_files
from largegen.slides.slide import slide_name

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Item:
    """An image or slide to be varied."""

    name: str  # its stem, which no other has
    path: Path
    label: str
    patient: str  # "" where that is not known


def read_items(labels: Path) -> tuple[list[Item], list[Item]]:
    """Read what is to be varied: what is in train, where the table has splits; and what is held out, which never is.

    Args:
        labels: A directory with a folder for each class, or a CSV file with the columns `file` and `label`, and perhaps
            `split` and `patient`. Files are sought beside the CSV file, then in the working directory.

    Returns:
        The images to vary, and those of other splits that are there.

    Raises:
        InputError: For files that are not there, names that occur twice, a patient in two splits, or nothing to vary.
    """
    found, held_out = (_of_folders(labels), []) if labels.is_dir() else _of_table(labels)
    twice = [name for name, count in Counter(item.name for item in found).items() if count > 1]
    if twice:
        raise InputError(
            f"{labels}: {len(twice)} names occur more than once, {twice[0]} first: their outputs would, too"
        )
    if len({item.label for item in found}) == 1:
        log.warning("%s: one class only, %s: a classifier needs two", labels, found[0].label)
    protect([item.path for item in (*found, *held_out)])
    return found, held_out


def _of_folders(folder: Path) -> list[Item]:
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    if not classes:
        raise InputError(f"{folder}: no folders, one for each class; or give a CSV file")
    if loose := sorted(path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES):
        log.warning("%s: %d images lie in no class's folder, %s first: left out", folder, len(loose), loose[0])
    return [
        Item(slide_name(path), path, each.name, "")
        for each in classes
        for path in find_files([each], by_products=False)
    ]


def _of_table(table: Path) -> tuple[list[Item], list[Item]]:
    rows = read_labelled(table)
    patients = [line.cells.get("patient") or line.cells["file"] for line in rows]
    splits = read_splits(table, rows, patients)
    chosen = [line for line, split in zip(rows, splits or ["train"] * len(rows), strict=True) if split == "train"]
    others = [line for line, split in zip(rows, splits or [], strict=False) if split != "train"]
    if not chosen:
        raise InputError(f"{table}: no line is in train, and others are never varied")
    if others:
        log.info("%s: %d of %d lines are in train; the others are left out", table, len(chosen), len(rows))
    found, missing = _items(table, chosen)
    if missing:
        raise InputError(f"{table}: {len(missing)} of {len(chosen)} files are not there, {missing[0]} first")
    held_out, missing = _items(table, others)
    if missing:
        log.warning(
            "%s: %d of %d files that are not in train are not there, %s first: variations are not compared with them",
            *(table, len(missing), len(others), missing[0]),
        )
    known = {item.path for item in (*found, *held_out)}
    beside = sorted(path for folder in {path.parent for path in known} for path in folder.iterdir())
    if unnamed := [path for path in beside if path.suffix.lower() in SUFFIXES and path not in known]:
        log.warning("%s: no line for %d images beside these, %s first: left out", table, len(unnamed), unnamed[0].name)
    return found, held_out


def _items(table: Path, lines: Sequence[Line]) -> tuple[list[Item], list[str]]:
    """Find the files of lines, beside the table that names them, or in the working directory; and what is not there."""
    found, missing = [], []
    for line in lines:
        name = line.cells["file"]
        spelled = (name, name.replace("\\", "/"))  # written on Windows
        path = next((path for one in spelled for path in (table.parent / one, Path(one)) if path.exists()), None)
        if path is None:
            missing.append(name)
        else:
            found.append(Item(slide_name(path), path, line.cells["label"], line.cells.get("patient", "")))
    return found, missing
