"""libvips, and how threads that read by it find out whose trouble it notes."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

_import_lock = threading.Lock()


@cache  # once: setting a level makes all loggers forget what they have worked out
def import_pyvips():
    """Import pyvips with its chatter about odd TIFF tags off: what matters comes as an exception."""
    with _import_lock:
        os.environ.setdefault("VIPS_WARNING", "0")
        logging.getLogger("pyvips").setLevel(logging.ERROR)
        import pyvips
    return pyvips


class Notes:
    """Turns of the threads at libvips' note of errors, which is one for all: many read at once, or one alone."""

    def __init__(self) -> None:
        self.erased = 0  # times that a note was erased which may have been another thread's
        self._turn = threading.Lock()
        self._left = threading.Condition()
        self._reading = 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        """While others may read too, so that a new note may be theirs; none is erased on purpose."""
        with self._turn, self._left:
            self._reading += 1
        try:
            yield
        finally:
            with self._left:
                self._reading -= 1
                self._left.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While no other thread reads: old notes may be erased, and a new one is of this thread."""
        with self._turn:
            with self._left:
                self._left.wait_for(lambda: not self._reading)
            yield

    def pending(self) -> bool:
        pyvips = import_pyvips()
        return pyvips.ffi.string(pyvips.vips_lib.vips_error_buffer()) != b""

    def erase(self) -> None:
        import_pyvips().vips_lib.vips_error_clear()


notes = Notes()
os.register_at_fork(after_in_child=notes.__init__)  # the other threads are gone, and their turns with them
