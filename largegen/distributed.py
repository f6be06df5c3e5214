"""Several processes that share one picture: how they find each other, and what the first one does for all."""

import atexit
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from largegen.errors import InputError, LargegenError

# The others wait while the first one embeds a reference or writes a picture.
PATIENCE = timedelta(days=7)

Result = TypeVar("Result")


def join(device: torch.device) -> PartialState:
    """The group of processes that a launcher (`accelerate launch`, torchrun) started; without one, this one alone."""
    processes = PartialState(cpu=device.type == "cpu", timeout=PATIENCE)
    if processes.num_processes > 1:
        atexit.unregister(_leave)
        atexit.register(_leave)
    return processes


def _leave() -> None:
    """Close the group in order: threads of it that outlive the interpreter abort the process, now and then."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def alone(device: torch.device) -> None:
    """Raise an InputError under torchrun or accelerate launch, for what one process does."""
    if join(device).num_processes > 1:
        raise InputError("this command runs in one process: start it without torchrun or accelerate launch")


def from_main(processes: PartialState, compute: Callable[[], Result]) -> Result:
    """What `compute` gives in the main process, in all of them; its LargegenError is raised in all."""
    result, failure = None, None
    if processes.is_main_process:
        try:
            result = compute()
        except LargegenError as error:
            if processes.num_processes == 1:
                raise
            failure = error
    if processes.num_processes > 1:
        result, failure = broadcast_object_list([result, failure])
    if failure is not None:
        raise failure
    return result


def gathered(processes: PartialState, compute: Callable[[], Result]) -> list[Result]:
    """What `compute` gives in each process, in all of them; a LargegenError of any is raised in all."""
    if processes.num_processes == 1:
        return [compute()]
    result, failure = None, None
    try:
        result = compute()
    except LargegenError as error:
        failure = error
    found = gather_object([(result, failure)])
    for _, failure in found:
        if failure is not None:
            raise failure
    return [result for result, _ in found]


def least(processes: PartialState, number: int) -> int:
    """The smallest of the processes' numbers."""
    return min(gather_object([number])) if processes.num_processes > 1 else number
