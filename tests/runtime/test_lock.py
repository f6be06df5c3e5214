"""An output has one writer at a time, whatever becomes of the others."""

import errno
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from largegen.errors import LockedError, OutputError
from largegen.runtime import lock as locks
from largegen.runtime.lock import lock, owner_of

HOLD = """
import errno, os, sys, time
from largegen.runtime import lock as locks
from largegen.runtime.lock import lock
locks.BEAT_S = float(sys.argv[4])
if sys.argv[2] != "0":
    import fcntl
    def flock(*_):
        raise OSError(int(sys.argv[2]), "no locks here")
    fcntl.flock = flock
with lock(sys.argv[1]):
    if sys.argv[3] == "fork" and not os.fork():
        time.sleep(60)
    print("held", flush=True)
    time.sleep(60)
"""
WITHOUT_FLOCK = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def hold(path, error=0, then=""):
    """Start a process that holds the lock of `path` until it is killed; flock gives it `error`."""
    command = [sys.executable, "-c", HOLD, str(path), str(error), then, str(locks.BEAT_S)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout.readline() == b"held\n"
    return process


def owner(path):
    found = owner_of(path)
    return found.pid, found.host


@pytest.fixture
def no_flock(monkeypatch):
    """flock fails as it does on file systems without locks, with the errors of WITHOUT_FLOCK."""
    fcntl = pytest.importorskip("fcntl")

    def fail_with(number):
        def flock(*_):
            raise OSError(number, "no locks here")

        monkeypatch.setattr(fcntl, "flock", flock)

    return fail_with


def test_a_lock_clears_up_after_killed_writers(tmp_path):
    """Of the same output only: another, whose name begins with this one's, may be being written."""
    mine = [".out.123.tmp", ".out.123.tmp.png", ".out.123.0.tmp"]
    others = [".out.v2.123.tmp", ".out.lock.123.tmp", "out", ".outer.123.tmp"]
    for name in (*mine, *others):
        (tmp_path / name).mkdir()
    with lock(tmp_path / "out"):
        assert sorted(file.name for file in tmp_path.iterdir()) == sorted([*others, "out.lock"])


def test_a_lock_names_its_owner_and_goes_away(tmp_path):
    with lock(tmp_path / "out"):
        assert owner(tmp_path / "out.lock") == (os.getpid(), socket.gethostname())
        with pytest.raises(LockedError, match=rf"process {os.getpid()} on .* delete it if"), lock(tmp_path / "out"):
            pass
        assert owner(tmp_path / "out.lock") == (os.getpid(), socket.gethostname())  # one who is refused changes nothing
    assert names(tmp_path) == []


def test_a_lock_goes_away_after_an_error(tmp_path):
    with pytest.raises(KeyError), lock(tmp_path / "out"):
        raise KeyError
    assert names(tmp_path) == []


def test_a_second_live_process_is_kept_out(tmp_path):
    with hold(tmp_path / "out") as other:
        try:
            with pytest.raises(LockedError, match=f"process {other.pid} "), lock(tmp_path / "out"):
                pass
        finally:
            other.kill()
    assert names(tmp_path) == ["out.lock"]
    with lock(tmp_path / "out"):  # a killed owner's lock is taken over
        assert owner(tmp_path / "out.lock")[0] == os.getpid()
    assert names(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_of_a_killed_owner_does_not_hold_its_lock(tmp_path):
    """Workers that read data are such children, and outlive a kill by seconds."""
    with hold(tmp_path / "out", then="fork") as other:
        try:
            other.kill()
            other.wait()
            with lock(tmp_path / "out"):
                assert owner(tmp_path / "out.lock")[0] == os.getpid()
        finally:
            os.killpg(other.pid, 9)


def test_a_dead_owner_s_process_id_may_have_gone_to_another(tmp_path):
    (tmp_path / "out.lock").write_text(f"{os.getppid()}\n{socket.gethostname()}\n")  # alive, but not the owner
    with lock(tmp_path / "out"):
        assert owner(tmp_path / "out.lock") == (os.getpid(), socket.gethostname())
    assert names(tmp_path) == []


@pytest.mark.parametrize("content", ["mine", "[[package]]\nname = 'a'\n", "12 months\nof notes\n"])
@pytest.mark.parametrize("error", [0, errno.ENOLCK])
def test_a_file_of_somebody_else_is_no_lock(tmp_path, no_flock, content, error):
    (tmp_path / "out.lock").write_text(content)
    if error:
        no_flock(error)
    with pytest.raises(OutputError, match=r"out.lock: not written by largegen"), lock(tmp_path / "out"):
        pass
    assert (tmp_path / "out.lock").read_text() == content and names(tmp_path) == ["out.lock"]


@pytest.fixture
def short_lease(monkeypatch):
    monkeypatch.setattr(locks, "BEAT_S", 0.1)
    monkeypatch.setattr(locks, "LEASE_S", 1.0)
    monkeypatch.setattr(locks, "POLL_S", 0.05)


ELSEWHERE = ["1\nelsewhere\n", "1\nelsewhere\nanother-kernel\n", f"1\n{socket.gethostname()}\nanother-kernel\n"]


@pytest.mark.parametrize("content", ELSEWHERE)
def test_a_dead_owner_s_lock_on_another_machine_is_taken_over(tmp_path, short_lease, content):
    """As after a kill and a requeue to another node, or in another container of the same host name."""
    (tmp_path / "out.lock").write_text(content)
    with lock(tmp_path / "out"):
        assert owner(tmp_path / "out.lock") == (os.getpid(), socket.gethostname())
    assert names(tmp_path) == []


@pytest.mark.parametrize("content", ELSEWHERE)
def test_a_living_owner_on_another_machine_is_respected(tmp_path, short_lease, content):
    file = tmp_path / "out.lock"
    file.write_text(content)
    stop = threading.Event()

    def live():
        while not stop.wait(0.1):
            os.utime(file)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with (
            pytest.raises(LockedError, match=r"process 1 on .* is writing this output already"),
            lock(tmp_path / "out"),
        ):
            pass
    finally:
        stop.set()
        thread.join()
    assert file.read_text() == content


def test_an_owner_gives_signs_of_life(tmp_path, short_lease):
    with lock(tmp_path / "out"):
        before = (tmp_path / "out.lock").stat().st_mtime_ns
        end = time.monotonic() + 5
        while (tmp_path / "out.lock").stat().st_mtime_ns == before:
            assert time.monotonic() < end
            time.sleep(0.02)


def test_a_stopped_owner_on_this_machine_is_not_dead(tmp_path, short_lease):
    with hold(tmp_path / "out") as other:
        try:
            os.kill(other.pid, 19)  # SIGSTOP
            time.sleep(1.5)
            with pytest.raises(LockedError, match=f"process {other.pid} "), lock(tmp_path / "out"):
                pass
        finally:
            other.kill()


def test_who_waits_has_the_lock_next_and_says_so(tmp_path, caplog):
    with hold(tmp_path / "out") as other:
        threading.Timer(1.0, other.kill).start()
        started = time.monotonic()
        with caplog.at_level("INFO", "largegen"), lock(tmp_path / "out", wait=True):
            assert time.monotonic() - started > 0.8
    assert f"being made by process {other.pid}" in caplog.text and "waiting for it" in caplog.text
    assert names(tmp_path) == []


def test_of_many_who_find_a_dead_lock_one_at_a_time_holds_it(tmp_path):
    (tmp_path / "out.lock").write_text("")  # cut off by a kill
    inside, most, refused = [], [], []

    def take():
        try:
            with lock(tmp_path / "out"):
                inside.append(1)
                most.append(len(inside))
                threading.Event().wait(0.05)
                inside.pop()
        except LockedError:
            refused.append(1)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert len(most) + len(refused) == 8
    assert names(tmp_path) == []


def test_two_processes_at_once_never_meet(tmp_path):
    """Each takes the lock again and again, and would find the other's mark inside."""
    code = """
import sys, time
from pathlib import Path
from largegen.errors import LockedError, OutputError
from largegen.runtime.lock import lock

mark, taken, end = Path(sys.argv[1] + ".mark"), 0, time.monotonic() + 2
while time.monotonic() < end:
    try:
        with lock(sys.argv[1]):
            mark.touch(exist_ok=False)
            time.sleep(0.001)
            mark.unlink()
            taken += 1
    except LockedError:
        pass
print(taken)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    taken = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], taken
    assert sum(int(out) for out, _ in taken) > 2
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", WITHOUT_FLOCK)
def test_on_a_file_system_without_locks_the_file_is_the_lock(tmp_path, no_flock, monkeypatch, error):
    monkeypatch.setattr(locks, "BEAT_S", 0.3)
    no_flock(error)
    with lock(tmp_path / "out"):
        assert owner(tmp_path / "out.lock")[0] == os.getpid()
        with pytest.raises(LockedError, match=f"process {os.getpid()} on "), lock(tmp_path / "out"):
            pass
    assert names(tmp_path) == []
    with hold(tmp_path / "out", error) as other:
        try:
            with pytest.raises(LockedError, match=f"process {other.pid} on "), lock(tmp_path / "out"):
                pass
        finally:
            other.kill()
    with lock(tmp_path / "out"):  # a killed owner's lock is taken over
        assert owner(tmp_path / "out.lock")[0] == os.getpid()
    assert names(tmp_path) == []


def test_a_lock_is_had_at_once(tmp_path):
    started = time.perf_counter()
    for _ in range(20):
        with lock(tmp_path / "out"):
            pass
    assert time.perf_counter() - started < 2
