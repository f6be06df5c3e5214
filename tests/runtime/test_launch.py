"""Processes of a command on one machine: what they are told, and how all of them end."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from helpers import ROOT

from largegen.runtime import launch
from largegen.runtime.launch import run_in_processes

PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path
rank, told = int(os.environ["RANK"]), {name: os.environ[name] for name in (
    "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT", "OMP_NUM_THREADS")}
Path(f"told-{rank}").write_text(json.dumps(told))
print(f"this is {rank}", file=sys.stderr, flush=True)
how = dict(word.split("=") for word in sys.argv[1:]).get(str(rank), "0")
if how == "wait":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    Path(f"ready-{rank}").touch()
    time.sleep(60)
if how == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(int(how))
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A program that `python -m largegen` finds in the working directory; its arguments say what each rank does."""
    (tmp_path / "largegen").mkdir()
    (tmp_path / "largegen" / "__init__.py").touch()
    (tmp_path / "largegen" / "__main__.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "GRACE_S", 0.5)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return tmp_path


def test_they_are_a_group_and_share_the_cores(program, monkeypatch, capfd):
    monkeypatch.setattr(launch, "cores", lambda: 7)
    assert run_in_processes(3, []) == (0, "")
    told = [json.loads((program / f"told-{rank}").read_text()) for rank in range(3)]
    assert [(one["WORLD_SIZE"], one["LOCAL_RANK"], one["OMP_NUM_THREADS"]) for one in told] == [
        ("3", str(rank), "2") for rank in range(3)
    ]
    assert len({one["MASTER_PORT"] for one in told}) == 1
    assert capfd.readouterr().err == "this is 0\n"


@pytest.mark.parametrize(
    ("how", "found"),
    [
        (["0=5"], (5, "")),  # it has said why itself
        (["1=5"], (5, "this is 1")),
        (["1=5", "0=wait"], (5, "this is 1")),  # which does not notice, and is ended
        (["1=kill"], (1, "process 1 of 2 was ended by SIGKILL")),
    ],
)
@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_the_first_that_fails_says_why(program, how, found):
    assert run_in_processes(2, how) == found


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_reach_all(program, number, code):
    starter = (
        "from largegen.runtime.launch import run_in_processes; from largegen.runtime.signals import heed_sigterm;"
        "import os, sys; heed_sigterm(); os.chdir(sys.argv[1]); sys.exit(run_in_processes(2, ['0=wait', '1=wait'])[0])"
    )
    command = [sys.executable, "-c", starter, str(program)]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=ROOT) as process:
        end = time.monotonic() + 30
        while not all((program / f"ready-{rank}").exists() for rank in range(2)) and time.monotonic() < end:
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(30) == code
