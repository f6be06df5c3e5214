"""Device and precision, atomic files, and locks: what every long job needs to be fast and safe to kill."""

import contextlib
import errno
import itertools
import json
import os
import re
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from largegen.errors import InputError, LargegenError, LockedError, ModelError, OutputError

if TYPE_CHECKING:
    import torch

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def resolve_device(device: str = "auto") -> "torch.device":
    """Turn `auto|cpu|cuda|cuda:N|mps` into a device that exists here.

    Under `accelerate launch`, `auto` and `cuda` mean this process's own GPU. Raises InputError for a device
    that this machine lacks.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"--device {device}: not a device; use auto, cpu, cuda, cuda:N or mps") from error
    if found.type == "cuda":
        if not torch.cuda.is_available():
            raise InputError(f"--device {device}: this machine has no usable CUDA GPU; use --device cpu or auto")
        index = int(os.environ.get("LOCAL_RANK", 0)) if found.index is None else found.index
        if index >= torch.cuda.device_count():
            raise InputError(f"--device {device}: only {torch.cuda.device_count()} CUDA GPU(s) here")
        return torch.device("cuda", index)
    if found.type == "mps" and not torch.backends.mps.is_available():
        raise InputError(f"--device {device}: this machine has no Apple GPU; use --device cpu or auto")
    if found.type not in ("cpu", "mps"):
        raise InputError(f"--device {device}: not a device; use auto, cpu, cuda, cuda:N or mps")
    return found


def resolve_precision(precision: str, device: "torch.device") -> "torch.dtype":
    """Turn `auto|fp32|bf16|fp16` into a dtype; `auto` is bf16 where the hardware computes in it, else fp32.

    Raises InputError for an unknown name and for fp16 on a CPU, where it is slower than fp32.
    """
    import torch

    if precision not in PRECISIONS:
        raise InputError(f"--precision {precision}: use one of {', '.join(PRECISIONS)}")
    if precision == "fp16" and device.type == "cpu":
        raise InputError("--precision fp16: not on a CPU; use bf16 or fp32")
    if precision == "auto":
        native = {"cpu": cpu_has_bf16, "cuda": torch.cuda.is_bf16_supported}.get(device.type, lambda: False)
        return torch.bfloat16 if native() else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 natively (AVX-512 BF16 or AMX); elsewhere bf16 is emulated and slow."""
    import torch

    check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(check and check())


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next tensors, where it can be told to (glibc).

    By default it gives every large block back to the system and faults it in anew, which takes a quarter of a CPU's
    time in sampling and training.
    """
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        trim_threshold, mmap_max = -1, -4
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_max, 0)


def cache_directory() -> Path:
    """Where embedded regions and downloaded weights are kept: `$XDG_CACHE_HOME/largegen`, or `~/.cache/largegen`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "largegen"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the errors of the operating system, safetensors and torch.save while writing `path` into OutputErrors."""
    try:
        yield
    except LargegenError:
        raise  # says already what is wrong
    except Exception as error:
        if not _is_write_error(error):
            raise
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or _is_full(error, Path(path)):
            raise OutputError(f"{path}: no space left on the disk; free some or choose another --out") from error
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
        raise OutputError(f"{path}: cannot be written: {reason}") from error


def _is_write_error(error: Exception) -> bool:
    """safetensors and torch.save have errors of their own, which only their names and texts tell apart."""
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


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` on success, remove it on failure.

    The temporary keeps the suffix of `path`, so writers that choose a format by suffix work on it; it may be a
    file or a directory. Raises OutputError where the file system refuses.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{path.suffix}")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            replace(temporary, path)
    finally:
        remove(temporary)


def replace(new: Path, path: Path) -> None:
    """Rename `new` to `path`, in place of what is there: what a kill leaves under that name is whole."""
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


def _hidden(path: Path) -> Path:
    """A free name beside `path` for what is about to be deleted."""
    return next(
        name
        for number in itertools.count()
        if not (name := path.with_name(f".{path.name}.{os.getpid()}.{number}.tmp")).exists()
    )


def read_config(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ModelError where there is none."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: not a configuration")
    return content


def write_json(path: Path, content: dict) -> None:
    """Write `content` to `path` as indented JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=str) + "\n")


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold `<path>.lock` (process id, its birth and host) while writing `path`; clear up what killed writers left.

    A lock left by a dead process of this host is taken over, also where its process id has gone to another since.
    Raises LockedError while its owner lives, or when it was taken on another host, where that cannot be known.
    """
    file = Path(path).with_name(f"{Path(path).name}.lock")
    pid = os.getpid()
    with writing(file):
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
