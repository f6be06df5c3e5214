"""Labels and captions of embedding files."""

import pytest
from helpers.priors import save_grid, two_kinds

from largegen.embeddings.annotations import read_annotations
from largegen.embeddings.file import EmbeddingFile
from largegen.errors import InputError


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embeddings")
    return [EmbeddingFile(save_grid(folder / f"{name}.h5", two_kinds(2, 2, 0))) for name in ("a", "b.c", "d")]


def read(tmp_path, files, text, column="caption"):
    path = tmp_path / "table.csv"
    path.write_text(text)
    return read_annotations(path, column, files)


def test_files_are_named_in_many_ways_and_rows_may_repeat(tmp_path, files):
    text = 'file,caption\na.svs,one\na,"two, too"\nslides/b.c.svs,three\nb.c.h5,four\n'
    assert read(tmp_path, files, text) == [["one", "two, too"], ["three", "four"], []]


def test_files_without_a_text_are_counted(tmp_path, files, caplog):
    read(tmp_path, files, "file,label\na,x\n", "label")
    assert "no label for 2 of 3 files" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,caption\na,one\ne.svs,two\n", "line 3: e.svs is none of the embedding files"),
        ("file,caption\na,\n", "line 2: a has no caption"),
        ("file,label\na,one\n", "needs a header line with the columns file and caption"),
        ("", "needs a header line"),
        ("file,caption\na\n", "line 2: 1 cells, but the header has 2 names"),
    ],
)
def test_wrong_tables_are_one_line(tmp_path, files, text, message):
    with pytest.raises(InputError, match=message) as raised:
        read(tmp_path, files, text)
    assert "\n" not in str(raised.value)


def test_a_table_that_is_not_there(tmp_path, files):
    with pytest.raises(InputError, match="cannot be read"):
        read_annotations(tmp_path / "none.csv", "label", files)
