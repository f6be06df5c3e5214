"""Labels and captions of embedding files, from a CSV file."""

import logging
from collections.abc import Sequence
from pathlib import Path

from largegen.embeddings.file import EmbeddingFile
from largegen.errors import InputError
from largegen.runtime.tables import read_table

log = logging.getLogger(__name__)


def read_annotations(path: Path, column: str, files: Sequence[EmbeddingFile]) -> list[list[str]]:
    """Read what a CSV file says of each embedding file.

    Args:
        path: With a header line, and the columns `file` and `column`. A `file` is the name of an embedding file or of
            its slide, with or without folder and suffix.
        column: label or caption.
        files: Of which it says something.

    Returns:
        The texts of each file, in the order of the rows; none for a file that the CSV does not name.

    Raises:
        InputError: For a file that cannot be read, lacks a column, or names no embedding file.
    """
    rows = read_table(path, "file", column)
    by_name = {name: number for number, file in enumerate(files) for name in names_of(file)}
    found: list[list[str]] = [[] for _ in files]
    for number, row in rows:
        name, text = row["file"], row[column]
        where = next((by_name[one] for one in spellings(name) if one in by_name), None)
        if where is None:
            raise InputError(f"{path}: line {number}: {name or 'an empty name'} is none of the embedding files")
        if not text:
            raise InputError(f"{path}: line {number}: {name} has no {column}")
        found[where].append(text)
    without = [str(file.path) for file, texts in zip(files, found, strict=True) if not texts]
    if without:
        log.warning("%s: no %s for %d of %d files, %s first", path, column, len(without), len(files), without[0])
    return found


def names_of(file: EmbeddingFile) -> set[str]:
    """List the names that a table may call an embedding file: its own and its slide's, with and without suffix.

    Of a file that is of no slide, such as a variation of one, its own alone.
    """
    if file.settings.imagined:
        return {file.path.name, file.path.stem}
    slide = Path(file.settings.source_path)
    return {file.path.name, file.path.stem, file.settings.source_name, slide.name, slide.stem} - {""}


def spellings(name: str) -> list[str]:
    """List how a name in a table may be meant: as it is, without its folder, without its suffix."""
    path = Path(name.replace("\\", "/"))  # written on Windows
    return [name, path.name, path.stem]
