"""CSV files as users' programs write them."""

import pytest

from largegen.errors import InputError
from largegen.runtime.tables import read_table

WANTED = [(2, {"file": "a.svs", "label": "Öl, raw"}), (4, {"file": "b.svs", "label": "x"})]


@pytest.mark.parametrize(
    "content",
    [
        'file,label\na.svs,"Öl, raw"\n\nb.svs,x\n'.encode(),
        'File, Label \r\na.svs ,"Öl, raw"\r\n,\r\n b.svs,x'.encode(),
        "\ufefffile;label\r\na.svs;Öl, raw\r\n;\r\nb.svs;x\r\n".encode(),
        "file\tlabel\r\na.svs\tÖl, raw\r\n\t\r\nb.svs\tx\r\n".encode("utf-16"),
    ],
    ids=["plain", "windows", "excel", "unicode-text"],
)
def test_dialects(tmp_path, content):
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    assert [tuple(line) for line in read_table(path, "file", "label")] == WANTED


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "needs a header line with the columns file, and lines below it"),
        (b"file,label\n", "lines below it"),
        (b"slide,label\na,b\n", "with the columns file"),
        (b"file,label,FILE\na,b,c\n", "has the column file twice"),
        (b"file,label\na,b,c\n", "line 2: 3 cells, but the header has 2 names"),
        (b'file,label\na,"b\n', "not readable as CSV"),
        (b"file,label\n\xe4,b\n", "neither UTF-8 nor UTF-16 text"),
    ],
)
def test_what_is_no_table(tmp_path, content, message):
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_table(path, "file")


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_table(tmp_path / "none.csv")
