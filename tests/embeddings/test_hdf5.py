"""HDF5 files where the file system has no locks, or another program holds one."""

import os
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest
from helpers.embeddings import embed

from largegen.embeddings.convert.arrays import open_arrays
from largegen.embeddings.file import EmbeddingFile
from largegen.errors import EmbeddingFileError, LargegenError
from largegen.slides.slide import open_slide

FAILING = "#include <errno.h>\nint flock(int fd, int op) {{ errno = {}; return -1; }}\n"
PROGRAM = (
    "import sys; from pathlib import Path; from largegen.embeddings.file import EmbeddingFile;"
    "from largegen.embeddings.convert.arrays import open_arrays\n"
    "file = EmbeddingFile(Path(sys.argv[1])); print(len(file.features()))\n"
    "with open_arrays(Path(sys.argv[1])) as found: print(len(found.arrays['features'][()]))"
)


@pytest.fixture
def file(slide_path, tmp_path):
    return embed(open_slide(slide_path), tmp_path)


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("gcc"), reason="needs LD_PRELOAD and a C compiler")
@pytest.mark.parametrize("code", ["ENOLCK", "ENOSYS", "EOPNOTSUPP", "EINVAL"])
def test_files_are_read_where_the_file_system_has_no_locks(file, tmp_path, code):
    (tmp_path / "flock.c").write_text(FAILING.format(code))
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / "flock.so", tmp_path / "flock.c"], check=True)
    environment = os.environ | {"LD_PRELOAD": str(tmp_path / "flock.so")}
    environment.pop("HDF5_USE_FILE_LOCKING", None)
    done = subprocess.run([sys.executable, "-c", PROGRAM, file], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(EmbeddingFile(file).count)] * 2


@pytest.mark.skipif(sys.platform == "win32", reason="locks of Windows have other errors")
def test_a_file_that_another_program_writes_is_not_called_damaged(file):
    program = "import h5py, sys; file = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "open\n"
        for read in (EmbeddingFile, lambda path: open_arrays(path).__enter__()):
            with pytest.raises(LargegenError, match=r"another program has it open .* HDF5_USE_FILE_LOCKING=FALSE"):
                read(file)
        other.stdin.close()


def test_a_damaged_file_is_still_called_so(file):
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(EmbeddingFileError, match="damaged"):
        EmbeddingFile(file)


def test_a_filter_that_is_not_here_is_no_damage(tmp_path):
    """Compressed by a plugin, as by hdf5plugin's Blosc."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        how.set_chunk((4, 8))
        how.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (2, 2, 4))
        kind, space = h5py.h5t.NATIVE_FLOAT, h5py.h5s.create_simple((4, 8))
        dataset = h5py.h5d.create(file.id, b"features", kind, space, how)
        dataset.write_direct_chunk((0, 0), bytes(4 * 4 * 8))
        file["coords"] = np.zeros((4, 2), int)
    with (
        pytest.raises(LargegenError, match="by a plugin of HDF5 that is not here") as error,
        open_arrays(path) as found,
    ):
        found.arrays["features"][()]
    assert "damaged" not in str(error.value)
