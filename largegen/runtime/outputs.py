"""What a command may write: never its inputs, nor what others made; found out before the work, not hours after."""

import os
from collections.abc import Iterable
from pathlib import Path

from largegen.errors import InputError, OutputError

_inputs: dict[Path, tuple[int, int] | None] = {}  # of the running command: where each is, and its device and inode
_identities: set[tuple[int, int]] = set()  # the same, for a quick look


def protect(paths: Iterable[Path]) -> None:
    """Take files and directories as inputs of the running command: from now on `refuse_input` refuses to write them."""
    for path in paths:
        resolved, identity = _where(path)
        _inputs[resolved] = identity
        if identity:
            _identities.add(identity)


def forget_inputs() -> None:
    """Forget all inputs, as another command begins."""
    _inputs.clear()
    _identities.clear()


def refuse_input(path: Path, field: str = "out") -> None:
    """Refuse an output that is an input, by this name, another spelling of it or a link, or a directory that has one.

    Args:
        path: The output.
        field: The parameter that names it, for the message.

    Raises:
        InputError: Where it is.
    """
    if not _inputs:
        return
    resolved, identity = _where(path)
    if resolved in _inputs or identity in _identities:
        raise InputError(f"{path}: is an input of this command and would be replaced; choose another `{field}`")
    if path.is_dir():
        inside = next((one for one in _inputs if one.is_relative_to(resolved)), None)
        if inside:
            raise InputError(f"{path}: holds {inside}, an input of this command; choose another `{field}`")


def _where(path: Path) -> tuple[Path, tuple[int, int] | None]:
    """Where a path leads, links followed; and device and inode of what is there, None for nothing."""
    resolved = Path(os.path.realpath(path))
    try:
        found = resolved.stat()
    except OSError:
        return resolved, None
    return resolved, (found.st_dev, found.st_ino)


def check_new(path: Path, overwrite: bool = False, field: str = "out") -> None:
    """Refuse to replace an input; and a file, directory or link, unless that is wanted.

    Args:
        path: The output.
        overwrite: Whether what is there may be replaced.
        field: The parameter that names the output, for the message.

    Raises:
        InputError: Where it is an input, see `refuse_input`.
        OutputError: Where it exists and `overwrite` is False.
    """
    refuse_input(path, field)
    if os.path.lexists(path) and not overwrite:
        raise OutputError(f"{path}: exists already; use `overwrite=True` or choose another `{field}`")


def check_writable(path: Path, overwrite: bool = False, field: str = "out") -> None:
    """Find out whether a file can be written, in a folder that is there or can be made; parameters as `check_new` has.

    Raises:
        InputError: Where it is an input, see `refuse_input`.
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
