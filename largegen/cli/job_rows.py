"""What many jobs are asked for by: the lines of a CSV file, or the slides of a directory."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from largegen.errors import InputError
from largegen.runtime.tables import read_table


@dataclass(frozen=True)
class Row:
    """A job as it was asked for."""

    where: str  # for messages
    cells: dict[str, str]  # {name of an option, or `slide`: its value}; "": not given


def find_rows(options: dict[str, Any]) -> list[Row] | None:
    """Find the jobs that the options of a command ask for; None for one job alone.

    Raises:
        InputError: For a CSV file or a directory without jobs.
    """
    from largegen.slides.find import SUFFIXES, find_files

    if file := options.get("jobs"):
        if "image" in options:
            if options["image"]:
                raise InputError(f"--jobs {file}: the images are its column `image`; do without {options['image']}")
        elif options["ref"] or options["embeddings"]:
            raise InputError(f"--jobs {file}: the references are its column `ref` or `embeddings`; do without these")
        return list(_read(file))
    if "slides" in options:
        return _slide_rows(options)
    embeddings = ("embeddings", (".h5", ".hdf5"), "embedding files")
    for name, suffixes, what in (("image", SUFFIXES, "images"), ("ref", SUFFIXES, "slides"), embeddings):
        if (folder := options.get(name)) and folder.is_dir():
            found = find_files([folder], suffixes, what=what, by_products=False)
            return [Row(str(path), {name: str(path)}) for path in found]
    return None


def _slide_rows(options: dict[str, Any]) -> list[Row] | None:
    """Find the slides of `largegen embed`, and what CSV files among them say."""
    from largegen.slides.find import find_files

    if options["import_"]:
        return None
    rows: list[Row] = []
    slides: list[Path] = options["slides"]
    lists = [path for path in slides if path.suffix.lower() == ".csv"]
    for file in lists:
        rows += _read(file)
    if others := [path for path in slides if path not in lists]:
        found = find_files(others, recursive=options["recursive"], by_products=False)
        rows += [Row(str(path), {"slide": str(path)}) for path in found]
    return rows if lists or len(rows) > 1 else None


def _read(file: Path) -> Iterator[Row]:
    """Read the lines of a CSV file of jobs.

    Raises:
        InputError: For a file that is none, or has no line.
    """
    for number, row in read_table(file):
        yield Row(f"{file} line {number}", {name.lstrip("-").replace("-", "_"): cell for name, cell in row.items()})
