"""Processes of a group made by fork: they need not import everything again."""

import os
import socket
import subprocess
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


READS = """
import multiprocessing, sys
from concurrent.futures import ThreadPoolExecutor
from largegen.slides.slide import open_slide

path, width, height, step_x, step_y = sys.argv[1], *map(int, sys.argv[2:])
slide = open_slide(path)
places = [(x, y) for x in range(0, width, step_x) for y in range(0, height, step_y)]

def total(place):
    return int(slide.read(*place, 128, 128, 1.5).sum())

expected = [total(place) for place in places]
with ThreadPoolExecutor(4) as pool:
    assert list(pool.map(total, places)) == expected
queue = (context := multiprocessing.get_context("fork")).Queue()
worker = context.Process(target=lambda: queue.put([total(place) for place in places]), daemon=True)
worker.start()
assert queue.get(timeout=60) == expected
"""


def check_reads(path, size: tuple[int, int], steps: tuple[int, int]) -> None:
    """Assert that threads and forked workers read of a slide what one reads.

    In a process that has run nothing else: a fork loses the threads of libraries.
    """
    command = [sys.executable, "-c", READS, str(path), *map(str, (*size, *steps))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
