"""Files are whole or not there, and errors of writing are one line."""

import errno
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from helpers.disk import small_disk

from largegen.errors import OutputError
from largegen.runtime.files import atomic, remove, remove_leftovers, replace, write_errors, write_json


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


def test_leftovers_of_an_output_and_of_its_parts(tmp_path):
    own, parts = [".a.1.tmp", ".a.1.tmp.png", ".a.1.0.tmp"], [".a.guide.1.tmp", ".a.up.2.1.tmp"]
    others = ["a", "a.guide", ".ab.1.tmp", ".a.tmp"]
    for name in (*own, *parts, *others):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "a")
    assert names(tmp_path) == sorted([*parts, *others])
    remove_leftovers(tmp_path / "a", parts=True)
    assert names(tmp_path) == sorted(others)
