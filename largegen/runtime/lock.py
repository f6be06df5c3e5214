"""One writer at a time for each output."""

import contextlib
import errno
import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from largegen.errors import LockedError
from largegen.runtime.files import remove, write_errors


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold `<path>.lock` (process id, its birth and host) while writing `path`; clear up what killed writers left.

    A lock left by a dead process of this host is taken over, also where its process id has gone to another since.
    Raises LockedError while its owner lives, or when it was taken on another host, where that cannot be known.
    """
    file = Path(path).with_name(f"{Path(path).name}.lock")
    pid = os.getpid()
    with write_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                _create(file, json.dumps({"pid": pid, "host": socket.gethostname(), "birth": _birth(pid)}))
                break
            except FileExistsError:
                _break_dead_lock(file)
    try:
        _remove_leftovers(Path(path))
        yield
    finally:
        file.unlink(missing_ok=True)


def _remove_leftovers(path: Path) -> None:
    """Delete the temporaries of `path` (see `atomic` and `_hidden`): whoever holds its lock is the only writer."""
    ours = re.compile(rf"\.{re.escape(path.name)}\.\d+(\.\d+)?\.tmp")
    for leftover in [file for file in path.parent.iterdir() if ours.match(file.name)]:
        remove(leftover)


def _create(file: Path, content: str) -> None:
    """Make a file that has its content from the first moment on; FileExistsError where it is there already."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        temporary.write_text(content)
        os.link(temporary, file)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        with file.open("x") as handle:  # a file system without hard links
            handle.write(content)
    finally:
        temporary.unlink(missing_ok=True)


def _break_dead_lock(file: Path) -> None:
    """Delete a dead owner's lock; raises LockedError where the owner may live."""
    import fcntl

    try:
        with file.open() as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)  # of several who find it dead, one looks and deletes at a time
            if os.fstat(handle.fileno()).st_ino == file.stat().st_ino:
                _raise_if_alive(file, handle.read())
                file.unlink()
    except FileNotFoundError:
        return  # gone meanwhile


def _raise_if_alive(file: Path, content: str) -> None:
    try:
        owner = json.loads(content)
    except ValueError:
        return  # killed between creating and filling it, where there are no hard links
    if owner["host"] != socket.gethostname():
        raise LockedError(f"{file}: held by process {owner['pid']} on {owner['host']}; delete it if that job is dead")
    if _alive(owner["pid"], owner.get("birth")):
        raise LockedError(
            f"{file}: process {owner['pid']} is writing this output already; delete it if that job is dead"
        )


def _alive(pid: int, birth: str | None) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return birth is None or _birth(pid) in (None, birth)


def _birth(pid: int) -> str | None:
    """When a process began, to tell it from a later one of the same number; None where the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # from the third field on
    except OSError:
        return None
    return f"{boot} {fields[19]}"  # field 22: clock ticks from the boot to the process's start
