"""Processes of a group made by fork: they need not import everything again."""

import os
import socket
import sys
from collections.abc import Callable

import torch

from largegen.runtime.distributed import process_group


def fork_group(world: int, work: Callable[[int, object], int]) -> list[int]:
    """Call `work(rank, processes)` in `world` processes of a group, and return their exit codes.

    `processes` is accelerate's, or None where there is one alone. For programs that do nothing else, with one thread.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(world):
        child = os.fork()
        if not child:
            os._exit(_attempt(rank, world, port, work))
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def _attempt(rank: int, world: int, port: int, work: Callable[[int, object], int]) -> int:
    try:
        state = None
        if world > 1:
            group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
            group |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            os.environ.update({name: str(value) for name, value in group.items()})
            state = process_group(torch.device("cpu"))
        return work(rank, state)
    except BaseException as error:  # the child must not go on as its parent
        print(f"rank {rank} of {world}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return 1
