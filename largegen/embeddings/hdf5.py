"""HDF5 files opened for reading, also where the file system has no locks."""

import errno
from pathlib import Path
from typing import TYPE_CHECKING

from largegen.errors import EmbeddingFileError, first_line

if TYPE_CHECKING:
    import h5py

HELD = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES)  # what a lock fails with that another program holds


def why_unreadable(error: Exception) -> str:
    """Say what is the matter with a file that HDF5 does not read."""
    text = first_line(error)
    if "plugin" in text or "required filter" in text:
        return (
            "compressed by a plugin of HDF5 that is not here; set HDF5_PLUGIN_PATH to a folder that has it (that of"
            f" `pip install hdf5plugin` has many), or save it with gzip: {text}"
        )
    return f"a damaged HDF5 file: {text}"


def open_hdf5(path: Path) -> "h5py.File":
    """Open a file for reading; without a lock where the file system gives none, as some of NFS and Lustre.

    Raises:
        EmbeddingFileError: Another program has it open for writing.
        OSError: It is damaged.
    """
    import h5py

    try:
        return h5py.File(path, "r")
    except OSError as error:
        if "lock" not in str(error):
            raise
        if error.errno in HELD:
            raise EmbeddingFileError(
                f"{path}: another program has it open and may be writing it; close it there, or set"
                " HDF5_USE_FILE_LOCKING=FALSE in the environment to read it all the same"
            ) from error
    return h5py.File(path, "r", locking=False)
