"""How threads wait for one another."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys, threading, time
from largegen.cli import main
try:
    main(["--version"])
except SystemExit:
    pass
print(os.environ.get("OMP_WAIT_POLICY"))
"""


@pytest.mark.parametrize(
    ("given", "policy"),
    [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active"), ({"GOMP_SPINCOUNT": "5"}, "None")],
)
def test_commands_sleep_unless_told_otherwise(given, policy):
    rest = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=rest | given, capture_output=True, text=True)
    assert done.stdout.split()[-1] == policy, done.stderr


def test_nothing_has_loaded_torch_before():
    program = "import sys, largegen.cli; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"
