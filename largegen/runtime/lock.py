"""One writer at a time for each output."""

import contextlib
import errno
import os
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from largegen.errors import LockedError
from largegen.runtime.files import remove_leftovers, write_errors

if TYPE_CHECKING:
    from filelock import BaseFileLock

PATIENCE_S = 0.2  # a writer that is just leaving, or has not signed yet, gets so long
NO_FLOCK = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)  # beside ENOSYS, which filelock knows


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold `<path>.lock` while writing `path`, and clear up what killed writers left.

    The operating system frees the lock of a process that dies. The file holds the writer's process id and host while
    it is held, and is deleted afterwards. A file that names another host is respected even where nobody holds it,
    because the locks of many shared file systems do not reach across hosts. Where the file system has no locks at all,
    the file itself is the lock, and that of a dead process of this host is taken over.

    Args:
        path: The output, a file or a directory, which need not exist.

    Raises:
        LockedError: While another process writes the output, here or on another host.
        OutputError: Where the lock cannot be made.
    """
    path = Path(path)
    file = path.with_name(f"{path.name}.lock")
    with write_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        held = _acquire(file)
    try:
        with write_errors(file):
            _sign(file)
        remove_leftovers(path)
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows keeps an open file; there filelock deletes it
            file.unlink()  # while it is held: later it may be another's
        held.release()


def _acquire(file: Path) -> "BaseFileLock":
    from filelock import FileLock, SoftFileLock, Timeout

    owner = _owner(file)
    if owner and owner[1] != socket.gethostname():
        raise LockedError(f"{file}: held by process {owner[0]} on {owner[1]}; delete it if that job is dead")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "flock not supported")  # its own lock by a file is good enough
            held: BaseFileLock = FileLock(file, timeout=PATIENCE_S, thread_local=False)
            try:
                held.acquire()
            except OSError as error:
                if error.errno not in NO_FLOCK:
                    raise
                if not _owner(file):
                    file.unlink(missing_ok=True)  # what the attempt made
                held = SoftFileLock(file, timeout=PATIENCE_S, thread_local=False)
                held.acquire()
    except (Timeout, PermissionError) as error:
        if isinstance(error, PermissionError) and not file.is_file():
            raise
        owner = _owner(file)
        who = f"process {owner[0]}" if owner else "another process"
        raise LockedError(f"{file}: {who} is writing this output already; delete it if that job is dead") from error
    return held


def _owner(file: Path) -> tuple[int, str] | None:
    """Process id and host in a lock file, whether written here or by filelock; None where there are none."""
    try:
        with file.open("rb", buffering=0) as handle:
            try:
                content = handle.read(1024)
            except PermissionError:  # on Windows the first byte of a held lock cannot be read
                handle.seek(1)
                content = handle.read(1024)
        pid, host, *_ = content.decode(errors="replace").strip("\0").split()
        return int(pid), host.partition("?")[0]  # filelock adds the process namespace
    except (OSError, ValueError):
        return None


def _sign(file: Path) -> None:
    """Write process id and host into a lock file that is held; leave filelock's own where it stands already."""
    if _owner(file) == (os.getpid(), socket.gethostname()):
        return
    with file.open("r+b") as handle:
        handle.seek(0 if os.name == "posix" else 1)
        handle.write(f"{os.getpid()}\n{socket.gethostname()}\n".encode())
        handle.truncate()
