"""Several processes of one command on this machine, as torchrun would start them, with the cores divided among them."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import IO

from largegen.runtime.signals import Terminated
from largegen.runtime.threads import cores

GRACE_S = 10.0  # after one has failed, the others notice by themselves within this time, or are ended
POLL_S = 0.05


def is_launched() -> bool:
    """Tell whether this process is one of a group that a launcher has started."""
    return "LOCAL_RANK" in os.environ


def run_in_processes(count: int, arguments: list[str]) -> tuple[int, str]:
    """Run largegen's command line in `count` processes that form a group, and wait for them.

    They are a session of their own, so that a Ctrl-C at the terminal reaches them once: through this process, which
    hands SIGINT and SIGTERM on. Only the first one prints its messages.

    Args:
        count: of processes.
        arguments: of the command line.

    Returns:
        The exit code of the first that failed, else 0; and what it said last, where it has not printed that itself.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    threads = {"OMP_NUM_THREADS": max(1, cores() // count)} if "OMP_NUM_THREADS" not in os.environ else {}
    command = [sys.executable, "-m", "largegen", *arguments]
    with contextlib.ExitStack() as stack:
        said = [None, *(stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(count - 1))]
        processes: list[subprocess.Popen[bytes]] = []
        for rank, stderr in enumerate(said):
            own = group | threads | {"RANK": rank, "LOCAL_RANK": rank}
            environment = os.environ | {name: str(value) for name, value in own.items()}
            processes.append(subprocess.Popen(command, env=environment, stderr=stderr, start_new_session=True))
        failed = _wait(processes)
        if failed is None:
            return 0, ""
        code = processes[failed].returncode
        if code < 0:
            return 1, f"process {failed} of {count} was ended by {signal.Signals(-code).name}"
        return code, _last_line(said[failed])


def _wait(processes: "list[subprocess.Popen[bytes]]") -> int | None:
    """Wait for all of them, and return which was the first to fail."""
    failed, end = None, float("inf")
    stops = _stops()
    while any(process.poll() is None for process in processes):
        try:
            time.sleep(POLL_S)
        except KeyboardInterrupt as error:
            number = signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT
            _signal(processes, number)
        if failed is None and (codes := [i for i, process in enumerate(processes) if process.poll()]):
            failed, end = codes[0], time.monotonic() + GRACE_S
        if time.monotonic() > end:
            _signal(processes, next(stops))
            end = time.monotonic() + GRACE_S
    return failed if failed is not None else next((i for i, one in enumerate(processes) if one.returncode), None)


def _stops() -> Iterator[signal.Signals]:
    yield signal.SIGTERM
    while True:
        yield getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has one way


def _signal(processes: "list[subprocess.Popen[bytes]]", number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(OSError, ValueError):  # ended meanwhile; Windows knows no SIGINT for others
            process.send_signal(number)


def _last_line(said: IO[str] | None) -> str:
    if said is None:
        return ""
    said.seek(0)
    return next((line.strip() for line in reversed(said.readlines()) if line.strip()), "")
