"""Folders: what is found in them, and the one line that says what was left out."""

import logging
from pathlib import Path

import pytest

from largegen.errors import InputError
from largegen.slides.find import SUFFIXES, find_files


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".QPTIFF", ".ome.btf"])
def test_files_of_all_suffixes_that_can_be_read_are_found(tmp_path, suffix):
    assert find_files([touch(tmp_path, f"a{suffix}")]) == [tmp_path / f"a{suffix}"]


def test_one_line_says_what_was_left_out_and_why(tmp_path, caplog):
    touch(tmp_path, "a.svs", "b.txt", "c.json", "sub/d.svs", "more/e.svs", ".hidden", "1.dcm", "2.dcm", "f/Index.dat")
    touch(tmp_path, "f.mrxs")
    (tmp_path / "lost.svs").symlink_to("nowhere.svs")
    with caplog.at_level(logging.INFO):
        assert len(find_files([tmp_path])) == 3
    assert caplog.messages == [
        f"{tmp_path}: 3 slides; left out: 2 of other suffixes (.json .txt), 1 links that lead nowhere (lost.svs),"
        " 2 folders (`recursive=True` searches them) (more, sub), 1 .dcm files, taken for parts of 1.dcm (2.dcm)"
    ]
    caplog.clear()
    assert len(find_files([tmp_path], recursive=True)) == 5 and "folders" not in caplog.text


def test_nothing_is_said_of_a_folder_taken_whole(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        find_files([touch(tmp_path, "a.svs", ".DS_Store")])
    assert not caplog.messages


def test_an_empty_folder_with_folders_says_how_to_search_them(tmp_path):
    with pytest.raises(InputError, match=r"no slides .*left out: 1 folders \(`recursive=True` searches them\) \(sub\)"):
        find_files([touch(tmp_path, "sub/a.svs")])


def test_linked_folders_are_followed_but_not_in_circles_and_no_file_counts_twice(tmp_path):
    touch(tmp_path, "real/a.svs", "data/b.svs")
    (tmp_path / "data/linked").symlink_to(tmp_path / "real")
    (tmp_path / "data/circle").symlink_to(tmp_path / "data")
    (tmp_path / "data/c.svs").symlink_to(tmp_path / "data/b.svs")
    found = find_files([tmp_path / "data", tmp_path / "data/../data/b.svs"], recursive=True)
    assert found == [tmp_path / "data/b.svs", tmp_path / "data/linked/a.svs"]
    with pytest.raises(InputError, match=r"lost.svs: a link that leads nowhere"):
        (tmp_path / "lost.svs").symlink_to("nowhere")
        find_files([tmp_path / "lost.svs"])
