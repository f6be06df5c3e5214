"""kill -9 of one process, of one of several, and of all: the same command resumes, to the same image."""

import os
import subprocess
import sys

import pytest
from helpers import ROOT, TESTS


def survive(folder, world, who, moments):
    program = [sys.executable, "-m", "helpers.kill_moments", str(folder), str(world), who]
    done = subprocess.run(
        [*program, *map(str, moments)],
        cwd=TESTS,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr


CASES = [(1, "all"), (2, "one"), (2, "all")]


@pytest.mark.parametrize(("world", "who"), CASES)
def test_a_few_moments(tmp_path, world, who):
    survive(tmp_path, world, who, (1, 12, 31))


@pytest.mark.slow
@pytest.mark.parametrize(("world", "who"), CASES)
def test_twenty_moments(tmp_path, world, who):
    survive(tmp_path, world, who, range(1, 41, 2))
