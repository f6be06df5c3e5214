"""One writer at a time for each output, on this machine and on others that share the disk.

On one machine the operating system holds the lock, and frees it when the writer dies. Locks of many shared file systems
do not reach other machines, so a writer also gives a sign of life every few seconds: it touches its lock file. One who
finds the file of another machine watches whether it is touched. Where the file system has no locks at all, the same is
done by filelock's lease.
"""

import contextlib
import errno
import functools
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from largegen.errors import LockedError, OutputError
from largegen.runtime.files import remove_leftovers, write_errors

if TYPE_CHECKING:
    from filelock import BaseFileLock

log = logging.getLogger(__name__)

PATIENCE_S = 0.2  # a writer that is just leaving, or has not signed yet, gets so long
BEAT_S = 3.0  # between a writer's signs of life
LEASE_S = 30.0  # without one for so long, the writer on another machine is dead
POLL_S = 0.5  # between looks while waiting
NO_FLOCK = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # of the running kernel: containers may share a host's name


class Owner(NamedTuple):
    """Who holds a lock, as its file says."""

    pid: int
    host: str
    machine: str  # tells apart running kernels; "" where it does not say

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@contextlib.contextmanager
def lock(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold `<path>.lock` while writing `path`, and clear up what killed writers left.

    The file names the writer while it is held, and is deleted afterwards. That of a dead writer is taken over: at once
    where it ran on this machine, else when it has given no sign of life for LEASE_S seconds.

    Args:
        path: The output, a file or a directory, which need not exist.
        wait: Wait for another writer, saying so, as for embeddings that both need.

    Raises:
        LockedError: While another process writes the output, here or on another machine, unless `wait`.
        OutputError: Where the lock cannot be made, as where a file of somebody else has its name.
    """
    path = Path(path)
    file = path.with_name(f"{path.name}.lock")
    if _is_foreign(file):
        raise OutputError(f"{file}: not written by largegen, and it needs this name for a moment; move or rename it")
    with write_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        held = _acquire(file, wait)
    try:
        with _signs_of_life(file, held):
            remove_leftovers(path)
            yield
    finally:
        if _is_flock(held):
            with contextlib.suppress(OSError):  # Windows keeps an open file; there filelock deletes it
                if owner_of(file) in (_myself(), None):  # else another machine has taken it over
                    file.unlink()  # while it is held: later it may be another's
        held.release()


def _is_foreign(file: Path) -> bool:
    """Tell whether a file that is not ours has the lock's name; one that is just being signed is looked at again."""
    end = time.monotonic() + 5 * PATIENCE_S
    while _read(file) and owner_of(file) is None:
        if time.monotonic() > end:
            return True
        time.sleep(PATIENCE_S / 10)
    return False


def _acquire(file: Path, wait: bool) -> "BaseFileLock":
    said = False
    while True:
        held = _try_flock(file)
        owner = owner_of(file)
        if held is not None and not _is_flock(held):
            return held
        if held is not None and (owner is None or _of_this_machine(owner) or not _lives(file, owner)):
            return held
        if held is not None:
            held.release()
        if not wait:
            who = str(owner) if owner else "another process"
            raise LockedError(f"{file}: {who} is writing this output already; delete it if that job is dead")
        if not said:
            log.info("%s is being made by %s: waiting for it", file.with_suffix(""), owner or "another process")
            said = True
        time.sleep(POLL_S)


def _try_flock(file: Path) -> "BaseFileLock | None":
    """Take the operating system's lock, or a lease where it has none; None where another has it."""
    from filelock import FileLock, SoftFileLock, Timeout

    if issubclass(FileLock, SoftFileLock):  # a system without locks
        return _try_lease(file)
    held: BaseFileLock = FileLock(file, timeout=PATIENCE_S, thread_local=False, fallback_to_soft=False)
    try:
        held.acquire()
        return held
    except Timeout:
        return None
    except PermissionError:
        if not file.is_file():
            raise
        return None  # on Windows, of a file that is held
    except NotImplementedError:
        pass
    except OSError as error:
        if error.errno not in NO_FLOCK:
            raise
    with contextlib.suppress(OSError):
        if file.stat().st_size == 0 and owner_of(file) is None:
            file.unlink()  # what the attempt made
    return _try_lease(file)


def _try_lease(file: Path) -> "BaseFileLock | None":
    """Take filelock's lease, which it keeps alive itself; None where its holder gives a sign of life."""
    from filelock import SoftFileLease, Timeout

    lease = SoftFileLease(file, lease_duration=LEASE_S, heartbeat_interval=BEAT_S, thread_local=False)
    before = _touched(file)
    with contextlib.suppress(Timeout):
        lease.acquire(timeout=PATIENCE_S)
        return lease
    with contextlib.suppress(Timeout):
        lease.acquire(timeout=LEASE_S + 2 * BEAT_S, cancel_check=lambda: _touched(file) not in (before, None))
        return lease
    return None


def _is_flock(held: "BaseFileLock") -> bool:
    from filelock import SoftFileLease

    return not isinstance(held, SoftFileLease)


def _lives(file: Path, owner: Owner) -> bool:
    """Watch whether a writer on another machine gives a sign of life."""
    log.info("%s: left by %s; watching for up to %g s whether it lives", file, owner, LEASE_S)
    before, end = _touched(file), time.monotonic() + LEASE_S
    while time.monotonic() < end:
        time.sleep(min(POLL_S, LEASE_S / 10))
        if _touched(file) != before:
            return True
    return False


def _touched(file: Path) -> int | None:
    """Return when a file was touched, in ns by the clock of its file system; None where it is gone."""
    try:
        with file.open("rb", buffering=0) as handle:  # opened, it is not what a network's client remembers of it
            return os.fstat(handle.fileno()).st_mtime_ns
    except OSError:
        return None


def living(files: Iterable[Path]) -> set[Path]:
    """Tell which lock files are held by a writer that gives signs of life; takes seconds where one is in doubt."""
    before = {file: touched for file in files if (touched := _touched(file)) is not None}
    alive = {file for file, touched in before.items() if abs(time.time() - touched / 1e9) < 2 * BEAT_S}
    if alive != before.keys():  # dead, or its clock is not ours
        time.sleep(2 * BEAT_S)
    return alive | {file for file, touched in before.items() if _touched(file) not in (touched, None)}


@contextlib.contextmanager
def _signs_of_life(file: Path, held: "BaseFileLock") -> Iterator[None]:
    """Sign a lock file, and touch it from time to time; a lease does both itself."""
    if not _is_flock(held):
        yield
        return
    with write_errors(file):
        _sign(file)
    stop = threading.Event()
    thread = threading.Thread(target=_beat, args=(file, stop.wait), name="lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _beat(file: Path, stopped: Callable[[float], bool]) -> None:
    while not stopped(BEAT_S):
        with contextlib.suppress(OSError):
            if owner_of(file) == _myself():
                os.utime(file)


def _sign(file: Path) -> None:
    """Write who we are into a lock file that is held."""
    with file.open("r+b") as handle:
        handle.seek(0 if os.name == "posix" else 1)
        handle.write("\n".join(map(str, (*_myself(), ""))).encode())
        handle.truncate()


def owner_of(file: Path) -> Owner | None:
    """Read who holds a lock file, whether written here or by filelock; None where it does not say."""
    text = _read(file)
    named = dict(re.findall(r"^(pid|host)=(.*)$", text, re.MULTILINE))
    try:
        pid, host, machine = [named["pid"], named["host"], ""] if named else [*text.splitlines(), ""][:3]
        return Owner(int(pid), host.partition("?")[0], machine)  # filelock adds the process namespace
    except (ValueError, KeyError):
        return None


def _read(file: Path) -> str:
    """Read the beginning of a file; nothing where it cannot be read."""
    try:
        with file.open("rb", buffering=0) as handle:
            try:
                content = handle.read(1024)
            except PermissionError:  # on Windows the first byte of a held lock cannot be read
                handle.seek(1)
                content = handle.read(1024)
    except OSError:
        return ""
    return content.decode(errors="replace").strip("\0")


@functools.cache
def _machine() -> str:
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return socket.gethostname()


def _myself() -> Owner:
    return Owner(os.getpid(), socket.gethostname(), _machine())


def _of_this_machine(owner: Owner) -> bool:
    return owner.machine == _machine() if owner.machine else owner.host == socket.gethostname()
