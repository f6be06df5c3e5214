"""Checks of outputs before the work, so that a job is refused at once and not after hours."""

import os
from pathlib import Path

from largegen.errors import OutputError


def check_new(path: Path, overwrite: bool = False, field: str = "out") -> None:
    """Refuse to replace a file or directory, unless that is wanted.

    Args:
        path: The output.
        overwrite: Whether what is there may be replaced.
        field: The parameter that names the output, for the message.

    Raises:
        OutputError: Where it exists and `overwrite` is False.
    """
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: exists already; use `overwrite=True` or choose another `{field}`")


def check_writable(path: Path, overwrite: bool = False, field: str = "out") -> None:
    """Find out whether a file can be written, in a folder that is there or can be made; parameters as `check_new` has.

    Raises:
        OutputError: Where it is a directory, where it exists and `overwrite` is False, or where its folder is none or
            takes no files.
    """
    if path.is_dir():
        raise OutputError(f"{path}: is a directory; give a file name with `{field}`")
    check_new(path, overwrite, field)
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise OutputError(f"{path}: cannot be written in {folder}, which is not a directory")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: cannot be written in {folder}: no permission")
