"""kill -9 of one process, of one of several, and of all: the same command resumes, to the same image."""

import os
import subprocess
import sys

import pytest
from helpers import ROOT, TESTS


def survive(folder, moments):
    program = [sys.executable, "-m", "helpers.kill_moments", str(folder)]
    done = subprocess.run(
        [*program, *map(str, moments)],
        cwd=TESTS,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr


def test_a_few_moments(tmp_path):
    survive(tmp_path, (1, 12, 31))


@pytest.mark.slow
def test_twenty_moments(tmp_path):
    survive(tmp_path, range(1, 41, 2))
