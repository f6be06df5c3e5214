"""What is classified: embedding files, or single tiles of them, with their labels, patients and parts."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from largegen.embeddings.annotations import names_of, spellings
from largegen.embeddings.file import EmbeddingFile
from largegen.errors import EmbeddingFileError, InputError
from largegen.runtime.tables import Line, read_labelled, read_splits

log = logging.getLogger(__name__)

MOST_NAMED = 3  # of what a remark counts


@dataclass(frozen=True)
class Labelled:
    """A labels file that was checked, and the slides that it and the features have in common.

    Where the labels are of single tiles, each of these stands in the place of a slide.
    """

    names: tuple[str, ...]  # of the classes, sorted
    slides: tuple[str, ...]  # names, in the order of the labels file
    cells: tuple[tuple[int, int] | None, ...]  # (slides,): row and column of a tile; None: all tiles
    labels: np.ndarray  # (slides,) int64
    patients: np.ndarray  # (slides,) int64: those of one patient have the same number
    test: np.ndarray | None  # (slides,) bool; None where no split is given


@dataclass(frozen=True)
class Bags:
    """One set of features: for each slide of a `Labelled` the embeddings of its tiles."""

    name: str
    bags: list[np.ndarray]  # (N, D) float32 each

    @property
    def means(self) -> np.ndarray:
        """The mean over the tiles of each slide: (slides, D)."""
        return np.stack([bag.mean(0) for bag in self.bags])


def read_labels(
    path: Path, sets: Mapping[str, Sequence[EmbeddingFile]]
) -> tuple[Labelled, dict[str, list[EmbeddingFile]]]:
    """Read which slide has which label, and find its file in each set of features.

    Args:
        path: CSV file with the columns `file` and `label`, and where they are known `patient` and `split` (train or
            test; val counts as train). A `file` is the name of an embedding file or of its slide. Where the columns
            `row` and `col` say so, a line is of one tile, by its place in the file's grid.
        sets: Embedding files by the name of their set.

    Returns:
        The labels, and the files of each set in the order of its slides.

    Raises:
        InputError: For a table that contradicts itself, names a patient in two splits, or has fewer than two classes.
        EmbeddingFileError: For a set that has two files of a slide.
    """
    rows = _rows(path)
    found = {name: _by_name(name, files) for name, files in sets.items()}
    chosen: list[tuple[Line, dict[str, EmbeddingFile]]] = []
    lost = []
    for line in rows:
        own = {name: file for name, index in found.items() if (file := _look_up(index, line.cells["file"]))}
        if len(own) < len(found):
            lost.append(line.cells["file"])
        else:
            chosen.append((line, own))
    if not chosen:
        raise InputError(f"{path}: names no slide that all features have; its first is {rows[0].cells['file']}")
    _say(f"{path}: no features for {{}} of {len(rows)} labelled slides: left out", list(dict.fromkeys(lost)), len(lost))
    for name, files in sets.items():
        used = {id(files_of[name]) for _, files_of in chosen}
        unused = [file.path.name for file in files if id(file) not in used]
        _say(f"{path}: no label for {{}} of {len(files)} files of {name}: left out", unused)
    labels = [line.cells["label"] for line, _ in chosen]
    names = sorted(set(labels))
    if len(names) < 2:
        raise InputError(f"{path}: one class only, {names[0]}: nothing to tell apart")
    patients = [line.cells.get("patient") or f"file {line.cells['file']}" for line, _ in chosen]
    test = _test(path, [line for line, _ in chosen], patients)
    labelled = Labelled(
        tuple(names),
        tuple(line.cells["file"] for line, _ in chosen),
        tuple(_cell(path, line) for line, _ in chosen),
        np.array([names.index(label) for label in labels]),
        np.unique(patients, return_inverse=True)[1],
        test,
    )
    return labelled, {name: [own[name] for _, own in chosen] for name in sets}


def read_bags(
    name: str,
    files: Sequence[EmbeddingFile],
    most: int,
    seed: int,
    cells: Sequence[tuple[int, int] | None] = (),
) -> Bags:
    """Read the embeddings of a set of files.

    Args:
        name: Of the set.
        files: In the order of the slides.
        most: Tiles of a slide at most, drawn at random, which is said.
        seed: Of the draw.
        cells: Of each slide the tile that is meant (row, column), or None for all; none: all of all.

    Raises:
        EmbeddingFileError: Where files do not have the same dimension and encoder, or one holds no tile, or not that
            which is meant.
    """
    first, bags, cut = files[0], [], []
    rows_of: dict[Path, dict[tuple[int, int], np.ndarray]] = {}
    for file, cell in zip(files, cells or [None] * len(files), strict=True):
        if (file.dim, file.settings.encoder) != (first.dim, first.settings.encoder):
            raise EmbeddingFileError(
                f"{file.path}: {file.dim} numbers of {file.settings.encoder}, but {first.path.name} beside it has"
                f" {first.dim} of {first.settings.encoder}"
            )
        if cell is not None:
            if file.path not in rows_of:
                places = (tuple(place) for place in file.cells.tolist())
                rows_of[file.path] = dict(zip(places, file.features(), strict=True))
            if cell not in rows_of[file.path]:
                raise EmbeddingFileError(f"{file.path}: holds no tile at row {cell[0]}, column {cell[1]}")
            bags.append(rows_of[file.path][cell][None])
            continue
        features = file.features()
        if not len(features):
            raise EmbeddingFileError(f"{file.path}: holds no tile")
        if len(features) > most:
            cut.append(file.path.name)
            features = features[np.sort(np.random.default_rng(seed).choice(len(features), most, replace=False))]
        bags.append(features)
    _say(f"{name}: {most} tiles drawn of each larger slide; of {{}} of {len(files)}", cut)
    return Bags(name, bags)


def _rows(path: Path) -> list[Line]:
    """Read the table; of lines that say the same of a slide the first.

    Raises:
        InputError: For a slide without label, or with two.
    """
    rows = read_labelled(path)
    by_file: dict[tuple[str, ...], list[Line]] = defaultdict(list)
    for line in rows:
        by_file[line.cells["file"], line.cells.get("row", ""), line.cells.get("col", "")].append(line)
    twice = [name for name, lines in by_file.items() if len(lines) > 1]
    contrary = [name for name in twice if any(line.cells != by_file[name][0].cells for line in by_file[name])]
    if contrary:
        raise InputError(f"{path}: {len(contrary)} files have lines that contradict each other, {contrary[0][0]} first")
    _say(f"{path}: {{}} of {len(by_file)} files are named more than once: counted once", [name for name, *_ in twice])
    return [lines[0] for lines in by_file.values()]


def _by_name(name: str, files: Sequence[EmbeddingFile]) -> dict[str, EmbeddingFile]:
    found: dict[str, EmbeddingFile] = {}
    for file in files:
        for spelled in names_of(file):
            if found.setdefault(spelled, file) is not file:
                raise EmbeddingFileError(f"{file.path}: {found[spelled].path} of the same set is of {spelled}, too")
    return found


def _look_up(index: dict[str, EmbeddingFile], name: str) -> EmbeddingFile | None:
    return next((index[one] for one in spellings(name) if one in index), None)


def _test(path: Path, lines: Sequence[Line], patients: Sequence[str]) -> np.ndarray | None:
    """Read the column `split`: (slides,) bool, True for test; None where there is none.

    Raises:
        InputError: As `read_splits`, and for an empty part.
    """
    splits = read_splits(path, lines, patients)
    if splits is None:
        return None
    test = np.array([split == "test" for split in splits])
    if test.all() or not test.any():
        raise InputError(f"{path}: split: all {len(test)} slides are in {'test' if test.all() else 'train'}")
    return test


def _cell(path: Path, line: Line) -> tuple[int, int] | None:
    """Read which tile a line is of; None for all.

    Raises:
        InputError: For what are no two whole numbers.
    """
    place = [line.cells.get(name, "") for name in ("row", "col")]
    if not any(place):
        return None
    if not all(number.isdecimal() for number in place):
        raise InputError(f"{path}: line {line.number}: row and col: two whole numbers, from 0, or both empty")
    return int(place[0]), int(place[1])


def _say(remark: str, names: Sequence[str], count: int = 0) -> None:
    """Warn of what is left out: how many (in place of {}), and the first few."""
    if names:
        more = ", ..." if len(names) > MOST_NAMED else ""
        log.warning("%s (%s%s)", remark.format(count or len(names)), ", ".join(names[:MOST_NAMED]), more)
