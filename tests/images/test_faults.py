"""An image whose unfinished canvas lies in a file survives what machines do: full disks, clocks, signals, no locks."""

import errno
import os
import random
import signal
import subprocess
import time

import numpy as np
import pytest
from helpers.disk import small_disk
from helpers.images import pixels

from largegen import generate
from largegen.conditioning.area import ImageArea
from largegen.errors import OutputError
from largegen.images.generate_file import generate_file
from largegen.runtime.signals import Terminated, heed_sigterm
from largegen.sampling.settings import Sampling

SAMPLING = Sampling(steps=3, batch_size=4)
WHOLE = ImageArea(256, 192, 0, 0, 3, 4, full=False)


@pytest.fixture(autouse=True)
def in_file(monkeypatch):
    """Keep every canvas in a file, and finish a few rows at once."""
    monkeypatch.setattr("largegen.sampling.stored_canvas.MAX_MEMORY_CANVAS_VALUES", 0)
    monkeypatch.setattr("largegen.sampling.walk.BAND_VALUES", 6 * 4 * 40)


@pytest.fixture(scope="module")
def wanted(model, grid):
    return generate(model, grid, steps=3, batch_size=4)


@pytest.fixture
def make(model, grid):
    def make(out):
        return generate_file(model, grid, WHOLE, out, SAMPLING, save_every_s=0)

    return make


@pytest.fixture
def at_call(monkeypatch, model):
    """Do something before some call of the denoiser, counted over all runs."""
    original, calls = type(model).eps, []

    def at(number, act):
        def eps(self, *arguments):
            calls.append(1)
            if len(calls) == number:
                act()
            return original(self, *arguments)

        monkeypatch.setattr(type(model), "eps", eps)
        return calls

    return at


def test_a_disk_that_fills_up_under_the_canvas(make, wanted, tmp_path, monkeypatch):
    """As where no room is reserved, or another's files share what was."""
    monkeypatch.delattr(os, "posix_fallocate")
    with small_disk(tmp_path / "disk", 200) as folder:
        (folder / "of another").write_bytes(bytes(152 * 1024))
        with pytest.raises(OutputError, match="no space left on the disk") as caught:
            make(folder / "a.png")
        assert "\n" not in str(caught.value)
        assert {p.name for p in folder.iterdir()} == {"of another", ".a.png.partial", ".a.png.partial.rows"}
        (folder / "of another").unlink()
        make(folder / "a.png")
        assert np.array_equal(pixels(folder / "a.png"), wanted)


def test_a_clock_that_jumps(make, wanted, at_call, tmp_path, monkeypatch):
    """By days, forwards and back, at each look; and the run is stopped between."""
    now, jumps = time.time, random.Random(0)
    monkeypatch.setattr(time, "time", lambda: now() + jumps.uniform(-1e6, 1e6))
    calls = at_call(14, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "a.png")
    make(tmp_path / "a.png")
    assert np.array_equal(pixels(tmp_path / "a.png"), wanted)
    assert {p.name for p in tmp_path.iterdir()} == {"a.png", "a.png.json"} and len(calls) > 14


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_sigterm_in_the_network(make, wanted, at_call, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    calls = at_call(14, lambda: os.kill(os.getpid(), signal.SIGTERM))
    heed_sigterm()
    try:
        with pytest.raises(Terminated):
            make(tmp_path / "a.png")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert {p.name for p in tmp_path.iterdir()} == {".a.png.partial", ".a.png.partial.rows"}
    make(tmp_path / "a.png")
    assert np.array_equal(pixels(tmp_path / "a.png"), wanted)
    calls_of_two = len(calls)
    make(tmp_path / "b.png")
    assert calls_of_two < 14 + len(calls) - calls_of_two  # it did not begin again


def test_a_file_system_without_locks(make, wanted, at_call, tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl", reason="locks of Windows have other errors")

    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    at_call(14, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "a.png")
    make(tmp_path / "a.png")
    assert np.array_equal(pixels(tmp_path / "a.png"), wanted)
    assert {p.name for p in tmp_path.iterdir()} == {"a.png", "a.png.json"}


def test_a_folder_that_becomes_read_only(make, wanted, at_call, tmp_path):
    """As when a server is switched over: one line, and once it can be written, the run goes on."""
    with small_disk(tmp_path / "disk", 400) as folder:

        def remount(how):
            subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)

        def fail():
            raise OutputError("stopped")

        at_call(9, fail)
        with pytest.raises(OutputError, match="stopped"):
            make(folder / "a.png")
        remount("ro")
        with pytest.raises(OutputError, match=r"(?i)read-only") as caught:
            make(folder / "a.png")
        assert "\n" not in str(caught.value)
        remount("rw")
        make(folder / "a.png")
        assert np.array_equal(pixels(folder / "a.png"), wanted)
