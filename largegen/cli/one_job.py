"""One job of many: a command called once more by jobs.py, whose report is collected and whose networks are kept."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

Made = TypeVar("Made")


@dataclass
class OneJob:
    """The job that is running."""

    arguments: list[str]  # of the command that does it alone
    reports: list[tuple[dict[str, Any], str]] = field(default_factory=list)  # what it says, as JSON and as text


_running: list[OneJob] = []
_kept: dict[Any, Any] = {}


@contextmanager
def one_job(arguments: list[str]) -> Iterator[OneJob]:
    """Let a command that is called inside be one job of many."""
    job = OneJob(arguments)
    _running.append(job)
    try:
        yield job
    finally:
        _running.pop()


def running_job() -> OneJob | None:
    """Return the job that is running; None where the command is not one of many."""
    return _running[-1] if _running else None


def kept(make: Callable[..., Made], *arguments: Any) -> Made:
    """Make a network; of many jobs, take that of the job before where it is the same."""
    if not _running:
        return make(*arguments)
    key = make, arguments
    if key not in _kept:
        _kept.clear()  # before the next one is made: two might not fit into memory
        _kept[key] = make(*arguments)
    return cast(Made, _kept[key])


def forget_kept() -> None:
    """Let go of what is kept, when all jobs are done."""
    _kept.clear()
