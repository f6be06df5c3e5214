"""Outputs that cannot be had are refused before the work."""

import os

import pytest

from largegen.errors import OutputError
from largegen.runtime.outputs import check_new, check_writable


def test_what_is_there_is_kept_unless_told_otherwise(tmp_path):
    file = tmp_path / "a.png"
    for check in (check_new, check_writable):
        check(file)
        file.touch()
        with pytest.raises(OutputError, match=r"a\.png: exists already; use `overwrite=True` or .* `report`"):
            check(file, field="report")
        check(file, overwrite=True)
        file.unlink()


def test_a_file_is_needed_in_a_folder_that_takes_it(tmp_path):
    (tmp_path / "file").touch()
    check_writable(tmp_path / "new" / "folder" / "a.png")
    with pytest.raises(OutputError, match=r"is a directory; give a file name with `out`"):
        check_writable(tmp_path, overwrite=True)
    with pytest.raises(OutputError, match=r"cannot be written in .*file, which is not a directory"):
        check_writable(tmp_path / "file" / "a.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match=r"cannot be written in .*: no permission"):
        check_writable(tmp_path / "a.png")
