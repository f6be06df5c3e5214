"""Files and directories that are whole or not there, JSON, and the cache folder."""

import contextlib
import errno
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from largegen.errors import InputError, LargegenError, ModelError, OutputError
from largegen.runtime.outputs import refuse_input

START_BYTES = 512  # of a file, for `stand_in`
STAND_INS = {  # how files begin that people have in place of what they fetched, and what they are
    rb"\Z": "an empty file (0 bytes)",
    rb"(\xef\xbb\xbf)?\s*<(!doctype html|html|head|\?xml[^>]*>\s*<(!doctype html|html|error))": (
        "a web page: the download failed; fetch it again"
    ),
    rb"version https://git-lfs": "a pointer of Git LFS, not the file that it stands for; `git lfs pull` fetches that",
    rb".{257}ustar": "a tar archive; unpack it and give what is in it",
    rb"\x1f\x8b|BZh|\xfd7zXZ\0|7z\xbc\xaf": "a compressed file; unpack it and give what is in it",
}


def stand_in(start: bytes) -> str | None:
    """Say what stands in the place of a file, by its first START_BYTES bytes; None where it may be what it should."""
    return next((what for how, what in STAND_INS.items() if re.match(how, start, re.DOTALL | re.IGNORECASE)), None)


def cache_directory() -> Path:
    """Return where embeddings and downloaded weights are kept: `$XDG_CACHE_HOME/largegen` or `~/.cache/largegen`.

    Raises:
        OutputError: Where there is no home directory.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "largegen"
    except RuntimeError as error:  # a container's user whom nobody has heard of
        raise OutputError("no home directory to keep a cache in; set HOME or XDG_CACHE_HOME") from error


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn errors of writing `path` into errors of one line.

    Raises:
        OutputError: In place of an error of the operating system, safetensors or torch.save.
    """
    try:
        yield
    except LargegenError:
        raise  # says already what is wrong
    except Exception as error:
        if not _is_write_error(error):
            raise
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or _is_full(error, Path(path)):
            raise OutputError(f"{path}: no space left on the disk; free some or choose another `out`") from error
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
        raise OutputError(f"{path}: cannot be written: {reason}") from error


def _is_write_error(error: Exception) -> bool:
    """Recognise also the errors of safetensors and torch.save, which only their names and texts tell apart."""
    text = str(error)
    return (
        isinstance(error, OSError)
        or (type(error).__name__ == "SafetensorError" and "I/O error" in text)
        or (isinstance(error, RuntimeError) and ("inline_container" in text or "iostream error" in text))
    )


def _is_full(error: Exception, path: Path) -> bool:
    if "No space left" in str(error):
        return True
    if isinstance(error, OSError):
        return False
    there = next(p for p in (path, *path.absolute().parents) if p.exists())
    return shutil.disk_usage(there).free < 2**20  # torch.save says nothing of why it failed


def not_damaged(error: Exception, path: Path) -> None:
    """Raise again what says nothing of a file's content: where the system does not read it, or memory is full.

    For handlers that take all else for damage, after which a file may be replaced or an older one be taken.

    Raises:
        InputError: The system refuses: no permission, a disk or a network that fails, too many open files.
        LargegenError: As it is; it says already what is wrong.
        MemoryError: As it is.
    """
    if isinstance(error, LargegenError | MemoryError):
        raise error
    if isinstance(error, OSError) and error.errno and not isinstance(error, FileNotFoundError):
        raise InputError(f"{path}: cannot be read: {os.strerror(error.errno)}") from error


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` on success, remove it on failure.

    Args:
        path: A file or a directory. The temporary has the same suffix, so writers that choose a format by it work.

    Raises:
        InputError: Where `path` is an input of the running command.
        OutputError: Where the file system refuses.
    """
    path = Path(path)
    refuse_input(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{path.suffix}")
    try:
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            replace(temporary, path)
    finally:
        remove(temporary)


def sync_folder(folder: Path) -> None:
    """Wait until renamed files of a folder are on the disk, where the system can tell."""
    if hasattr(os, "O_DIRECTORY"):
        with contextlib.suppress(OSError):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def replace(new: Path, path: Path) -> None:
    """Rename `new` to `path`, in place of what is there: a kill leaves either the old or the new one, whole."""
    if not (new.is_dir() and path.is_dir()):
        new.replace(path)
        return
    old = path.rename(_hidden(path))
    try:
        new.rename(path)
    except OSError:
        old.rename(path)
        raise
    remove(old)


def remove(path: Path) -> None:
    """Delete a file or directory tree if it is there; a kill leaves no half of a tree under its name."""
    if path.is_dir() and not path.is_symlink():
        hidden = path if path.name.startswith(".") else path.rename(_hidden(path))
        shutil.rmtree(hidden, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(path: Path, parts: bool = False) -> None:
    """Delete what killed writers left of `path` (see `atomic` and `remove`); only for who holds its lock.

    Args:
        path: The output.
        parts: Also what they left of `<path>.<part>`.
    """
    part = r"(\..+)?" if parts else ""
    ours = re.compile(rf"\.{re.escape(path.name)}{part}\.\d+(\.\d+)?\.tmp")
    for leftover in [file for file in path.parent.iterdir() if ours.match(file.name)]:
        remove(leftover)


def remove_all_leftovers(folder: Path) -> None:
    """Delete what killed writers left of any file in a folder; only for who alone writes there."""
    ours = re.compile(r"\..+\.\d+(\.\d+)?\.tmp")
    if folder.is_dir():
        for leftover in [file for file in folder.iterdir() if ours.match(file.name)]:
            remove(leftover)


def _hidden(path: Path) -> Path:
    """Return a free name beside `path` for what is about to be deleted."""
    return next(
        name
        for number in itertools.count()
        if not (name := path.with_name(f".{path.name}.{os.getpid()}.{number}.tmp")).exists()
    )


def read_config(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file.

    Raises:
        ModelError: Where the file cannot be read or holds no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        not_damaged(error, path)
        raise ModelError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: not a configuration")
    return content


Said = TypeVar("Said")


def read_if_there(path: Path, build: Callable[[dict[str, Any]], Said]) -> Said | None:
    """Read what a JSON file says; None where there is no file.

    Args:
        path: Of the file.
        build: Makes of its object what is returned.

    Raises:
        ModelError: Where it cannot be read, or `build` fails on it.
    """
    if not path.exists():
        return None
    said = read_config(path)
    try:
        return build(said)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{path}: damaged: {error!r}") from error


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` to `path` as indented JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
