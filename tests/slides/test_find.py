"""What paths stand for."""

import pytest

from largegen.errors import InputError
from largegen.slides.find import find_files


def test_directories_expand_to_their_slides(tmp_path):
    for name in ("b.svs", "a.TIF", "notes.txt", ".a.tif", "1.dcm", "2.dcm"):
        (tmp_path / name).write_bytes(b"x")
    found = find_files([tmp_path, tmp_path / "b.svs"])
    assert [path.name for path in found] == ["1.dcm", "a.TIF", "b.svs"]
    (tmp_path / "none").mkdir()
    for bad in ([tmp_path / "none"], [tmp_path / "missing.svs"], []):
        with pytest.raises(InputError):
            find_files(bad)


def test_below_a_directory_only_where_asked(tmp_path):
    for name in ("a.svs", "sub/b.svs", "sub/.hidden/c.svs", "sub/d.dzi", "sub/d_files/0/0_0.png", "lost.svs"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "lost.svs").unlink()
    (tmp_path / "lost.svs").symlink_to(tmp_path / "gone.svs")
    assert find_files([tmp_path]) == [tmp_path / "a.svs"]
    below = find_files([tmp_path], recursive=True)
    assert below == [tmp_path / "a.svs", tmp_path / "sub/b.svs", tmp_path / "sub/d.dzi"]


def test_messages_say_what_was_looked_for(tmp_path):
    (tmp_path / "a.svs").write_bytes(b"x")
    with pytest.raises(InputError, match=r"no numbers in this directory or below \(looked for .csv .txt\); count them"):
        find_files([tmp_path], (".csv", ".txt"), what="numbers", hint="; count them", recursive=True)
    with pytest.raises(InputError, match="no numbers given"):
        find_files([], what="numbers")
