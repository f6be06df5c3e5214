"""Several processes that share one job: how they find each other, and what the main one does for all."""

import atexit
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, TypeVar, cast

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from largegen.errors import InputError, LargegenError, first_line
from largegen.runtime.device import OWN_GPU

# The others wait while the main one embeds a reference or writes an image.
PROCESS_TIMEOUT = timedelta(days=7)
MEETING_TIMEOUT = timedelta(seconds=100)  # for all of a group to begin
LATE_S = 5.0  # until processes that have not come are spoken of

log = logging.getLogger(__name__)

# What says that a launcher has started a process: torchrun, accelerate launch, and MPI as accelerate knows it.
LAUNCHED = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "PMI_SIZE", "PMI_RANK", "MV2_COMM_WORLD_SIZE"),
    *("MV2_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "I_MPI_HYDRA_HOST_FILE"),
)

Result = TypeVar("Result")


def process_group(device: torch.device) -> PartialState:
    """Return the processes that `accelerate launch` or torchrun started; without a launcher, this one alone."""
    _meet(device)
    processes = PartialState(cpu=device.type == "cpu", timeout=PROCESS_TIMEOUT)
    if processes.num_processes > 1:
        atexit.unregister(_leave_group)
        atexit.register(_leave_group)
    return processes


def _meet(device: torch.device) -> None:
    """Wait for the others of a group that the environment speaks of, saying so; torchrun waits for its own.

    Raises:
        InputError: Where it does not say where they meet.
        LargegenError: Where they do not come within MEETING_TIMEOUT.
    """
    size, said = os.environ.get("WORLD_SIZE", "1"), ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    if "TORCHELASTIC_RUN_ID" in os.environ or torch.distributed.is_initialized() or "LOCAL_RANK" not in os.environ:
        return
    alone = "unset WORLD_SIZE, RANK and LOCAL_RANK if this is one process by itself"
    try:
        count = int(size)
        if count < 2:
            return
        rank, _, host, port = (os.environ[name] for name in said)
        place, me = (host, int(port)), int(rank)
    except (KeyError, ValueError) as error:
        raise InputError(f"WORLD_SIZE={size} speaks of several processes, but {error} is not said; {alone}") from error
    text = "process %d of %d (WORLD_SIZE): waiting for the others at %s:%d; %s"
    late = threading.Timer(LATE_S, log.warning, (text, me, count, *place, alone))
    late.daemon = True
    late.start()
    try:
        store = torch.distributed.TCPStore(*place, count, me == 0, timeout=MEETING_TIMEOUT)
    except RuntimeError as error:
        seconds = MEETING_TIMEOUT.total_seconds()
        raise LargegenError(
            f"the other {count - 1} of {count} processes (WORLD_SIZE) did not come to {host}:{port}"
            f" within {seconds:g} s; {alone}"
        ) from error
    finally:
        late.cancel()
    backend = "nccl" if device.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, store=store, rank=me, world_size=count, timeout=PROCESS_TIMEOUT)


def _leave_group() -> None:
    """Close the group in order: threads of it that outlive the interpreter abort the process, now and then."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def work_alone() -> tuple[int, bool]:
    """Take the work of this process as its own, though a launcher started it beside others: no group is formed.

    Its GPU stays the one that the launcher meant.

    Returns:
        The number of this process, from 0, and whether there are others.
    """
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if "LOCAL_RANK" in os.environ:
        os.environ[OWN_GPU] = os.environ["LOCAL_RANK"]
    for name in LAUNCHED:
        os.environ.pop(name, None)
    return rank, size > 1


def require_single_process(device: torch.device) -> None:
    """Refuse to run in several processes.

    Raises:
        InputError: Under `accelerate launch` or torchrun with more than one process.
    """
    if process_group(device).num_processes > 1:
        raise InputError("this command runs in one process: start it without torchrun or accelerate launch")


def run_on_main(processes: PartialState, compute: Callable[[], Result]) -> Result:
    """Call `compute` in the main process and return its result in all of them.

    Args:
        processes: Those that share the job; all of them make this call.
        compute: Its result can be pickled.

    Raises:
        LargegenError: In all processes, where `compute` raises one. Any other exception of it is raised in the main
            process and ends the others with a LargegenError, so that none waits for what does not come.
    """
    if processes.num_processes == 1:
        return compute()
    own = _attempt(compute) if processes.is_main_process else _Outcome[Result]()
    result, failure = broadcast_object_list([own.result, own.failure])
    _raise(own.error, failure)
    return cast(Result, result)


def gather(processes: PartialState, compute: Callable[[], Result]) -> list[Result]:
    """Call `compute` in each process and return all results, in the order of the processes, in all of them.

    Args:
        processes: Those that share the job; all of them make this call.
        compute: Its result can be pickled.

    Raises:
        LargegenError: In all processes, where `compute` raises one in any. Any other exception is raised where it
            occurs and ends the other processes with a LargegenError.
    """
    if processes.num_processes == 1:
        return [compute()]
    own = _attempt(compute)
    found = gather_object([(own.result, own.failure)])
    _raise(own.error, next((failure for _, failure in found if failure), None))
    return [result for result, _ in found]


def main_first(processes: PartialState, compute: Callable[[], Result]) -> Result:
    """Call `compute` in each process, in the main one first, so that the others find what it downloads.

    Args:
        processes: Those that share the job; all of them make this call.
        compute: Its result stays in its process and need not be picklable.

    Raises:
        LargegenError: In all processes, where `compute` raises one in any.
    """
    found: list[Result] = []
    run_on_main(processes, lambda: found.append(compute()))
    gather(processes, lambda: None if found else found.append(compute()))
    return found[0]


def min_over_processes(processes: PartialState, number: int) -> int:
    """Return the smallest of the processes' numbers."""
    return min(gather_object([number])) if processes.num_processes > 1 else number


@dataclass(frozen=True)
class _Outcome(Generic[Result]):
    """What became of a computation."""

    result: Result | None = None
    error: Exception | None = None  # raised in this process
    failure: LargegenError | None = None  # raised in the other processes


def _attempt(compute: Callable[[], Result]) -> _Outcome[Result]:
    try:
        return _Outcome(compute())
    except LargegenError as error:
        return _Outcome(error=error, failure=error)
    except Exception as error:
        return _Outcome(error=error, failure=LargegenError(f"another process failed: {first_line(error)}"))


def _raise(own: Exception | None, failure: LargegenError | None) -> None:
    """Raise what this process failed with, or else what another did."""
    error = own or failure
    if error:
        raise error
