"""Files are whole or not there, an output has one writer, and errors of writing are one line."""

import errno
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch
from helpers.disk import small_disk

from largegen.errors import InputError, LockedError, OutputError
from largegen.runtime.device import resolve_device, resolve_precision
from largegen.runtime.files import atomic, remove, replace, write_errors, write_json
from largegen.runtime.lock import lock


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_atomic_file_appears_when_it_is_complete(tmp_path):
    with atomic(tmp_path / "new" / "a.txt") as temporary:
        assert temporary.suffix == ".txt"
        temporary.write_text("whole")
        assert not (tmp_path / "new" / "a.txt").exists()
    assert names(tmp_path / "new") == ["a.txt"]


def test_atomic_leaves_the_old_file_and_no_half_one(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(KeyError), atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise KeyError
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_atomic_replaces_a_directory(tmp_path):
    for text in ("first", "second"):
        with atomic(tmp_path / "model") as temporary:
            temporary.mkdir()
            (temporary / text).write_text(text)
    assert names(tmp_path) == ["model"]
    assert names(tmp_path / "model") == ["second"]


def test_a_kill_while_the_old_directory_is_deleted_leaves_the_new_one(tmp_path, monkeypatch):
    def killed(path, **_):
        raise SystemExit

    with atomic(tmp_path / "model") as temporary:
        temporary.mkdir()
    (tmp_path / "model" / "first").touch()
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr("largegen.runtime.files.shutil.rmtree", killed)
        with atomic(tmp_path / "model") as temporary:
            temporary.mkdir()
            (temporary / "second").touch()
    assert names(tmp_path / "model") == ["second"]
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr("largegen.runtime.files.shutil.rmtree", killed)
        remove(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_an_old_directory_comes_back_where_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    rename = Path.rename

    def refuse(self, target):
        if self.name == "new":
            raise PermissionError(errno.EACCES, "Permission denied")
        return rename(self, target)

    for name in ("model", "new"):
        (tmp_path / name / name).mkdir(parents=True)
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError):
        replace(tmp_path / "new", tmp_path / "model")
    assert names(tmp_path) == ["model", "new"] and names(tmp_path / "model") == ["model"]


def test_removing_takes_a_link_and_leaves_what_it_leads_to(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    for name in ("link", "nothing"):
        remove(tmp_path / name)
    assert names(tmp_path) == ["there"]


def test_write_json(tmp_path):
    write_json(tmp_path / "a.json", {"path": tmp_path, "n": 1})
    assert json.loads((tmp_path / "a.json").read_text()) == {"path": str(tmp_path), "n": 1}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no space left"),
        (PermissionError(errno.EACCES, "Permission denied"), "cannot be written: Permission denied"),
    ],
)
def test_errors_of_the_operating_system_are_output_errors(tmp_path, error, words):
    with pytest.raises(OutputError, match=words) as raised, write_errors(tmp_path / "a"):
        raise error
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), KeyError("a"), OutputError("mine")])
def test_other_errors_pass(tmp_path, error):
    with pytest.raises(type(error)) as raised, write_errors(tmp_path / "a"):
        raise error
    assert raised.value is error


@pytest.mark.parametrize("save", ["safetensors", "torch.save", "small torch.save"])
def test_a_full_disk_is_an_output_error(tmp_path, save):
    large = {"a": torch.ones(100_000)}
    with small_disk(tmp_path / "disk", 64) as disk:
        if save == "small torch.save":
            (disk / "filler").write_bytes(b"0" * 60_000)
        with pytest.raises(OutputError, match="no space left"), atomic(disk / "weights") as temporary:
            if save == "safetensors":
                safetensors.torch.save_file(large, temporary)
            else:
                torch.save(large, temporary)
        assert not (disk / "weights").exists()
        assert [n for n in names(disk) if n != "filler"] == []


def test_a_lock_clears_up_after_killed_writers(tmp_path):
    """Of the same output only: another, whose name goes on from this one's, may be being written."""
    mine = [".out.123.tmp", ".out.123.tmp.png", ".out.123.0.tmp"]
    others = [".out.v2.123.tmp", ".out.lock.123.tmp", "out", ".outer.123.tmp"]
    for name in (*mine, *others):
        (tmp_path / name).mkdir()
    with lock(tmp_path / "out"):
        assert sorted(file.name for file in tmp_path.iterdir()) == sorted([*others, "out.lock"])


def test_a_lock_names_its_owner_and_goes_away(tmp_path):
    with lock(tmp_path / "out"):
        owner = json.loads((tmp_path / "out.lock").read_text())
        assert (owner["pid"], owner["host"]) == (os.getpid(), socket.gethostname())
        with pytest.raises(LockedError, match=f"process {os.getpid()} is .* delete it if"), lock(tmp_path / "out"):
            pass
    assert names(tmp_path) == []


def test_a_second_live_process_is_kept_out(tmp_path):
    code = "import sys, time\nfrom largegen.runtime.lock import lock\n" + (
        "with lock(sys.argv[1]):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "out")], stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout.readline() == b"held\n"
            with pytest.raises(LockedError, match=f"process {other.pid} "), lock(tmp_path / "out"):
                pass
        finally:
            other.kill()
    with lock(tmp_path / "out"):  # a killed owner's lock is taken over
        assert json.loads((tmp_path / "out.lock").read_text())["pid"] == os.getpid()
    assert names(tmp_path) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system does not say when a process began")
def test_a_dead_owner_s_process_id_may_have_gone_to_another(tmp_path):
    with lock(tmp_path / "out"):
        owner = json.loads((tmp_path / "out.lock").read_text())
    (tmp_path / "out.lock").write_text(json.dumps(owner | {"birth": owner["birth"] + "0"}))
    with lock(tmp_path / "out"):
        assert json.loads((tmp_path / "out.lock").read_text()) == owner
    (tmp_path / "out.lock").write_text(json.dumps({"pid": owner["pid"], "host": owner["host"]}))  # of an old version
    with pytest.raises(LockedError), lock(tmp_path / "out"):
        pass


def test_a_lock_of_another_host_stays(tmp_path):
    (tmp_path / "out.lock").write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    with pytest.raises(LockedError, match="on elsewhere; delete it if"), lock(tmp_path / "out"):
        pass
    assert names(tmp_path) == ["out.lock"]


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


def test_devices_that_are_not_there():
    assert resolve_device("cpu") == torch.device("cpu")
    for name in ("gpu", "meta", *([] if torch.cuda.is_available() else ["cuda"])):
        with pytest.raises(InputError, match=f"--device {name}"):
            resolve_device(name)


def test_precisions():
    cpu = torch.device("cpu")
    assert resolve_precision("fp32", cpu) == torch.float32
    assert resolve_precision("bf16", cpu) == torch.bfloat16
    assert resolve_precision("auto", cpu) in (torch.float32, torch.bfloat16)
    assert resolve_precision("fp16", torch.device("cuda")) == torch.float16
    for name in ("fp16", "double"):
        with pytest.raises(InputError, match=f"--precision {name}"):
            resolve_precision(name, cpu)
