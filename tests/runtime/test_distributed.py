"""What processes that share an image tell each other."""

import subprocess

import pytest
import torch
from helpers.processes import start_two

from largegen.errors import InputError
from largegen.runtime.distributed import min_over_processes, process_group, run_on_main

PROGRAM = """
import torch
from largegen.runtime.distributed import run_on_main, gather, min_over_processes, process_group, main_first
from largegen.errors import InputError, LargegenError

processes = process_group(torch.device("cpu"))
rank = processes.process_index
assert processes.num_processes == 2

def main_only():
    assert rank == 0
    return "from the main one"

def fails():
    raise InputError("what went wrong")

found = run_on_main(processes, main_only)
try:
    run_on_main(processes, fails)
except InputError as error:
    failure = str(error)

def no_memory():
    if rank == 1:
        raise MemoryError("no memory")

for together in (gather, main_first):
    try:
        together(processes, no_memory)
    except (MemoryError, LargegenError) as error:
        assert type(error) is (MemoryError if rank else LargegenError) and "no memory" in str(error)
    else:
        raise AssertionError

turns = iter([lambda: rank])  # not fit for sending
assert main_first(processes, lambda: next(turns))() == rank
assert gather(processes, lambda: rank) == [0, 1]
print(f"{found}, {failure}, {min_over_processes(processes, 5 + rank)}")
"""


def test_two_processes():
    started = start_two(PROGRAM, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for process in started:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert out == "from the main one, what went wrong, 5\n"


def test_a_process_alone():
    processes = process_group(torch.device("cpu"))
    assert processes.is_main_process and min_over_processes(processes, 3) == 3
    assert run_on_main(processes, lambda: 4) == 4

    def fails():
        raise InputError("what went wrong")

    with pytest.raises(InputError, match="what went wrong"):
        run_on_main(processes, fails)
