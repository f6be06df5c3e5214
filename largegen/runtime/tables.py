"""Tables that users keep in CSV files, however their programs write them."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from largegen.errors import InputError

DELIMITERS = ",;\t"  # Excel writes semicolons where the comma is decimal, and tabs in "Unicode text"
SPLITS = {"train": "train", "training": "train", "val": "val", "validation": "val", "test": "test"}
MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}  # what "Unicode text" begins with


class Line(NamedTuple):
    """A line of a table."""

    number: int  # in the file, from 1, for messages
    cells: dict[str, str]  # by the names of the header line, without spaces around


def read_table(path: Path, *needed: str) -> list[Line]:
    """Read a CSV file with a header line: commas, semicolons or tabs, any line ends, with or without a byte-order mark.

    Names of columns are taken in lower case; empty lines are passed over.

    Args:
        path: The file.
        needed: Columns that it must have.

    Raises:
        InputError: For a file that cannot be read, lacks a column or has a name twice, has no line below its header, or
            a line with another number of cells.
    """
    try:
        content = path.read_bytes()
        text = content.decode(MARKS.get(content[:2], "utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: neither UTF-8 nor UTF-16 text: save it as CSV UTF-8") from error
    header = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=header.count)
    try:
        table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        rows = [(table.line_num, row) for row in table if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise InputError(f"{path}: not readable as CSV: {error}") from error
    names = [name.strip().lower() for name in rows[0][1]] if rows else []
    if len(rows) < 2 or not set(needed) <= set(names):
        columns = f" with the columns {' and '.join(needed)}" if needed else ""
        raise InputError(f"{path}: needs a header line{columns}, and lines below it")
    if twice := {name for name in names if name and names.count(name) > 1}:
        raise InputError(f"{path}: has the column {sorted(twice)[0]} twice")
    for number, row in rows:
        if len(row) != len(names):
            raise InputError(f"{path}: line {number}: {len(row)} cells, but the header has {len(names)} names")
    return [Line(number, dict(zip(names, map(str.strip, row), strict=True))) for number, row in rows[1:]]


def read_labelled(path: Path) -> list[Line]:
    """Read a table of files and their labels, in the columns `file` and `label`.

    Raises:
        InputError: As `read_table`, and for lines that lack one of them.
    """
    rows = read_table(path, "file", "label")
    lacking = [line.number for line in rows if not (line.cells["file"] and line.cells["label"])]
    if lacking:
        raise InputError(f"{path}: {len(lacking)} lines lack a file or a label, line {lacking[0]} first")
    return rows


def read_splits(path: Path, lines: Sequence[Line], patients: Sequence[str]) -> list[str] | None:
    """Read the column `split`: train, val or test on each line; None where there is no such column.

    Args:
        path: Of the table, for messages.
        lines: Of the table.
        patients: Whom each line is of.

    Raises:
        InputError: For unknown words, and for patients in test and elsewhere.
    """
    if not lines or "split" not in lines[0].cells:
        return None
    words = [line.cells["split"].lower() for line in lines]
    unknown = Counter(word for word in words if word not in SPLITS)
    if unknown:
        raise InputError(
            f"{path}: split {unknown.most_common(1)[0][0]!r} on {unknown.total()} lines: train, val or test"
        )
    splits = [SPLITS[word] for word in words]
    tested, others = (
        {patient for patient, split in zip(patients, splits, strict=True) if (split == "test") is test}
        for test in (True, False)
    )
    if both := tested & others:
        raise InputError(f"{path}: {len(both)} patients are in train and in test, {min(both)} first")
    return splits
