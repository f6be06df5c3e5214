"""SIGTERM as Ctrl-C: what is done is saved and unlocked, and the process ends in order."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

EXIT_TERMINATED = 143  # 128 + SIGTERM: what shells and schedulers know the end by SIGTERM by


class Terminated(KeyboardInterrupt):
    """SIGTERM has arrived: raised in the main thread, as KeyboardInterrupt is on Ctrl-C."""


def heed_sigterm() -> None:
    """Raise Terminated on SIGTERM from now on; so does process 1 of a container, which would not end by it else."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


class HeldBack:
    """SIGINT and SIGTERM that have arrived while they are held back."""

    def __init__(self) -> None:
        self.error: KeyboardInterrupt | None = None  # of the first signal; None: none yet
        self._held = True

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Take a signal: the first one waits; a second one, or one that is let through, is raised."""
        error = Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
        if self.error is not None or not self._held:
            raise error
        self.error = error

    @contextmanager
    def let_through(self) -> Iterator[None]:
        """Raise what has arrived and what arrives."""
        self._held = False
        try:
            if self.error is not None:
                raise self.error
            yield
        finally:
            self._held = True


@contextmanager
def held_back() -> Iterator[HeldBack]:
    """Hold SIGINT and SIGTERM back, so that a step that must not be cut in two can end; a second one is raised."""
    holder = HeldBack()
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if callable(signal.getsignal(number)):  # neither ignored nor left to the system
                before[number] = signal.signal(number, holder)
    try:
        yield holder
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
