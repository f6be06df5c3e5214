"""Arrays in files of other projects, NumPy's, HDF5 and pickles, read without running anything that they name.

A pickle may call any function. Here NumPy's arrays are put together from their parts by this module's own code, plain
containers pass, and whatever else a pickle names is refused.
"""

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from largegen.embeddings.hdf5 import open_hdf5, why_unreadable
from largegen.errors import InputError, LargegenError, first_line
from largegen.models.safe_pickle import Names, RefusedError, SafeUnpickler
from largegen.runtime.files import START_BYTES, not_damaged, stand_in

HDF5_START = b"\x89HDF\r\n\x1a\n"
NPY_START = b"\x93NUMPY"
ZIP_START = b"PK\x03\x04"
PICKLE_STARTS = (b"\x80", b"(", b"]", b"}", b"c")  # protocol 2 and later; 0 and 1
SUFFIXES = (".h5", ".hdf5", ".npy", ".npz", ".pickle", ".pkl")  # looked for in directories
KINDS = "fiub"  # of numbers: floats, integers, booleans
MAX_DEPTH = 4  # containers within containers


@dataclass(frozen=True)
class Arrays:
    """What a file holds; the arrays of an HDF5 file are read only when indexed, while it is open."""

    kind: str  # npy, npz, hdf5 or pickle
    arrays: Mapping[str, Any]  # path inside the file -> np.ndarray or h5py.Dataset
    attributes: Mapping[str, Mapping[str, Any]]  # path inside an HDF5 file, "" for its root -> its attributes


@contextmanager
def open_arrays(path: Path) -> Iterator[Arrays]:
    """Open the arrays in a file, recognised by its first bytes.

    Raises:
        InputError: Where it is damaged or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: {'a directory; give its files' if path.is_dir() else 'no such file'}")
    with path.open("rb") as file:
        start = file.read(START_BYTES)
    if what := stand_in(start):
        raise InputError(f"{path}: {what}")
    if start.startswith(HDF5_START):
        with _open_hdf5(path) as found:
            yield found
    elif start.startswith(NPY_START):
        yield Arrays("npy", {"": _read_npy(path)}, {})
    elif start.startswith(ZIP_START):
        yield Arrays("npz", _read_npz(path), {})
    elif start.startswith(PICKLE_STARTS):
        yield Arrays("pickle", dict(_named(_read_pickle(path))), {})
    else:
        raise InputError(f"{path}: not an embedding file: neither .npy, .npz, HDF5 nor a pickle")


def _read_npy(path: Path) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, allow_pickle=False)
        return array
    except Exception as error:  # a damaged header is parsed as Python and fails in as many ways
        if "Object arrays" in str(error):
            raise InputError(
                f"{path}: holds Python objects, which may run code when read; save plain numbers"
            ) from error
        not_damaged(error, path)
        raise InputError(f"{path}: a damaged .npy file: {first_line(error)}") from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """Its arrays of numbers; what else it holds is not read."""
    found: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(path) as file:
            if any(name.endswith("/data.pkl") for name in file.namelist()):
                raise InputError(
                    f"{path}: tensors of PyTorch, which do not say where their tiles lie; of CLAM and TRIDENT give the"
                    " HDF5 file of the same slide"
                )
            members = [name for name in file.namelist() if name.endswith(".npy")]
            for name in members:
                with file.open(name) as member:
                    try:
                        array = np.lib.format.read_array(member, allow_pickle=False)
                    except ValueError as error:
                        if "Object arrays" not in str(error):
                            raise
                        continue
                if array.dtype.kind in KINDS:
                    found[name.removesuffix(".npy")] = array
    except Exception as error:  # zlib's, zipfile's and NumPy's, and what a damaged header fails with
        not_damaged(error, path)
        raise InputError(f"{path}: a damaged .npz file: {first_line(error)}") from error
    if not members:
        raise InputError(f"{path}: not an embedding file: an archive, but not NumPy's (.npz)")
    return found


@contextmanager
def _open_hdf5(path: Path) -> Iterator[Arrays]:
    import h5py

    arrays: dict[str, Any] = {}
    attributes: dict[str, dict[str, Any]] = {}

    def visit(name: str, item: Any) -> None:
        attributes[name] = dict(item.attrs)
        if isinstance(item, h5py.Dataset) and item.dtype.kind in KINDS:
            arrays[name] = item

    try:
        with open_hdf5(path) as file:
            visit("", file)
            file.visititems(visit)
            yield Arrays("hdf5", arrays, attributes)
    except (LargegenError, OSError, RuntimeError, KeyError) as error:
        not_damaged(error, path)
        raise InputError(f"{path}: {why_unreadable(error)}") from error


def _read_pickle(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return _ArrayUnpickler(file, encoding="latin1").load()
    except RefusedError as error:
        raise InputError(f"{path}: a pickle of more than arrays ({error}), which may run code; not read") from error
    except Exception as error:  # the unpickler raises a dozen kinds for damaged files, MemoryError for a wrong length
        if not isinstance(error, MemoryError):
            not_damaged(error, path)
        raise InputError(f"{path}: a damaged pickle: {first_line(error)}") from error


def _named(content: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, np.ndarray]]:
    """Each array in nested dictionaries and lists, by its path: `3/feat_20x`."""
    if isinstance(content, _Array):
        content = getattr(content, "value", None)  # unset where the pickle left it out
    if isinstance(content, np.ndarray):
        yield name, content
        return
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    if depth < MAX_DEPTH:
        for key, value in items:
            yield from _named(value, f"{name}/{key}" if name else str(key), depth + 1)


class _DType:
    """Stands for numpy.dtype: numbers only."""

    def __init__(self, code: str, *_: Any):
        self.order = "="
        self.code = code if isinstance(code, str) else ""
        if self.code[:1] not in KINDS or not self.code[1:].isdecimal():
            raise RefusedError(f"an array of {code!r}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1] if state[1] in ("<", ">", "=") else "="

    @property
    def value(self) -> np.dtype:
        return np.dtype(self.order + self.code)


class _Array:
    """Stands for numpy.ndarray while a pickle is read."""

    value: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, content = state
        content = content.encode("latin1") if isinstance(content, str) else content
        self.value = np.frombuffer(content, dtype.value).reshape(shape, order="F" if fortran else "C")


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _frombuffer(content: bytes, dtype: _DType, shape: tuple[int, ...], order: str) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", content))
    return array


def _scalar(dtype: _DType, content: bytes) -> _Array:
    return _frombuffer(content, dtype, (), "C")


def _encode(text: str, _: str = "latin1") -> bytes:
    return text.encode("latin1")  # how protocol 2 and older write bytes


class _ArrayUnpickler(SafeUnpickler):
    """Reads what NumPy's arrays are pickled with, under the names of NumPy 1 and 2; all else is refused."""

    known: ClassVar[Names] = {
        ("numpy", "dtype"): _DType,
        ("numpy", "ndarray"): _Array,
        ("_codecs", "encode"): _encode,
        ("collections", "OrderedDict"): dict,
        **{
            (f"{core}.{module}", name): function
            for core in ("numpy.core", "numpy._core")
            for module, name, function in (
                ("multiarray", "_reconstruct", _reconstruct),
                ("multiarray", "scalar", _scalar),
                ("numeric", "_frombuffer", _frombuffer),
            )
        },
    }
