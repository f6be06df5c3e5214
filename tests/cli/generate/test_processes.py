"""`largegen generate` interrupted, and shared between processes."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.images import levels_apart, pixels


def start(arguments: list[str], *launcher: str) -> subprocess.Popen:
    command = [sys.executable, "-m", *launcher, "largegen", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    for _ in range(20_000):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    pytest.fail(f"{path} did not appear")


LONG = ("--steps", 50, "--save-every", 0)


def test_a_killed_run_goes_on_to_the_same_image(arguments, generate, tmp_path):
    first = start(arguments(*LONG))
    wait_for(tmp_path / ".a.png.partial", first)
    first.kill()
    first.communicate()
    assert not (tmp_path / "a.png").exists() and (tmp_path / "a.png.lock").exists()
    code, out, err = generate(*LONG)
    assert code == 0 and out == f"{tmp_path / 'a.png'}: 128x128 px\n"
    assert "resuming after step" in err
    assert {p.name for p in tmp_path.iterdir()} == {"a.png", "a.png.json"}
    assert generate(*LONG, out="whole.png")[0] == 0
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "whole.png"))


def test_ctrl_c(arguments, tmp_path):
    process = start(arguments(*LONG))
    wait_for(tmp_path / ".a.png.partial", process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 130 and out == ""
    assert err.splitlines()[-1].startswith("interrupted; the same command again resumes where it stopped")
    assert "Traceback" not in err
    assert [p.name for p in tmp_path.iterdir()] == [".a.png.partial"]


def test_two_processes_make_the_same_image(arguments, generate, tmp_path):
    more = ("--batch-size", 3, "--windows", "overlap", "--json", "--processes", 2)
    both = start(arguments("--cache", tmp_path / "cache", *more))
    out, err = both.communicate(timeout=200)
    assert both.returncode == 0, err
    assert json.loads(out)["out"] == str(tmp_path / "a.png")  # printed once
    assert {p.name for p in tmp_path.iterdir()} == {"a.png", "a.png.json", "cache"}
    assert generate("--batch-size", 8, "--windows", "overlap", out="b.png")[0] == 0
    assert levels_apart(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png")) <= 1
