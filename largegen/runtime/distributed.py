"""Several processes that share one image: how they find each other, and what the first one does for all."""

import atexit
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from largegen.errors import InputError, LargegenError, first_line

# The others wait while the first one embeds a reference or writes an image.
PROCESS_TIMEOUT = timedelta(days=7)

Result = TypeVar("Result")


def process_group(device: torch.device) -> PartialState:
    """The group of processes that a launcher (`accelerate launch`, torchrun) started; without one, this one alone."""
    processes = PartialState(cpu=device.type == "cpu", timeout=PROCESS_TIMEOUT)
    if processes.num_processes > 1:
        atexit.unregister(_leave)
        atexit.register(_leave)
    return processes


def _leave() -> None:
    """Close the group in order: threads of it that outlive the interpreter abort the process, now and then."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def require_single_process(device: torch.device) -> None:
    """Raise an InputError under torchrun or accelerate launch, for what one process does."""
    if process_group(device).num_processes > 1:
        raise InputError("this command runs in one process: start it without torchrun or accelerate launch")


def run_on_main(processes: PartialState, compute: Callable[[], Result]) -> Result:
    """What `compute` gives in the main process, in all of them; its LargegenError is raised in all.

    Any other exception of it ends the others with a LargegenError, so that none waits for what does not come.
    """
    if processes.num_processes == 1:
        return compute()
    own = _tried(compute) if processes.is_main_process else _Tried()
    result, failure = broadcast_object_list([own.result, own.told])
    _raise(own, failure)
    return result


def gather(processes: PartialState, compute: Callable[[], Result]) -> list[Result]:
    """What `compute` gives in each process, in all of them; a LargegenError of any is raised in all.

    Any other exception of one ends the others with a LargegenError.
    """
    if processes.num_processes == 1:
        return [compute()]
    own = _tried(compute)
    found = gather_object([(own.result, own.told)])
    _raise(own, next((failure for _, failure in found if failure), None))
    return [result for result, _ in found]


def main_first(processes: PartialState, compute: Callable[[], Result]) -> Result:
    """What `compute` gives in each process, the main one's turn first, so that the others find what it downloads.

    A LargegenError of any is raised in all.
    """
    found: list[Result] = []  # stays in its process: what is computed need not be fit for sending
    run_on_main(processes, lambda: found.append(compute()))
    gather(processes, lambda: None if found else found.append(compute()))
    return found[0]


class _Tried(NamedTuple):
    """What became of a computation."""

    result: Any = None
    error: Exception | None = None  # what it raised
    told: LargegenError | None = None  # what the other processes raise


def _tried(compute: Callable[[], Any]) -> _Tried:
    try:
        return _Tried(compute())
    except LargegenError as error:
        return _Tried(error=error, told=error)
    except Exception as error:
        return _Tried(error=error, told=LargegenError(f"another process failed: {first_line(error)}"))


def _raise(own: _Tried, failure: LargegenError | None) -> None:
    """Raise what this process failed with, or else what another did."""
    if own.error or failure:
        raise own.error or failure


def min_over_processes(processes: PartialState, number: int) -> int:
    """The smallest of the processes' numbers."""
    return min(gather_object([number])) if processes.num_processes > 1 else number
