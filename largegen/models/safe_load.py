"""Checkpoints of other projects: read without running or importing anything that they name.

A checkpoint is a pickle, which may call any function. torch's own safe reader refuses what names foreign classes, as
Lightning's checkpoints do in their callbacks; those are read by an unpickler that puts inert objects in their place.
TorchScript archives, as OpenAI's CLIP is one, are read likewise: torch would load their code too.
"""

import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import IO, Any, ClassVar

import torch

from largegen.errors import ModelError, first_line
from largegen.models.safe_pickle import Inert, Names, SafeUnpickler
from largegen.runtime.files import START_BYTES, not_damaged, stand_in

WRAPPERS = ("teacher", "student", "state_dict", "model")  # DINO and iBOT hold two: the averaged network comes first
STORAGES = {
    **{"DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16},
    **{"BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32},
    **{"ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool},
}

# Parts of names that torch.compile, DataParallel and FSDP add; in those of LDM's averaged weights the dots are gone.
_WRAPPED = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_EMA_WRAPPED = re.compile(r"^(model_ema\.diffusion_model)(?:_orig_mod|module)+(?=time_|input_|middle_|output_|out)")

# What checkpoints need beside containers, numbers and text.
PLAIN: Names = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    **{
        ("torch", name): getattr(torch, name)
        for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "uint8", "bool")
    },
}


class _CheckpointUnpickler(SafeUnpickler):
    """Reads a checkpoint whose pickle names foreign classes, which inert objects stand for."""

    known: ClassVar[Names] = PLAIN

    def unknown(self, module: str, name: str) -> Any:
        return Inert


class _PickleModule(ModuleType):
    """What torch.load takes for the pickle module."""

    Unpickler = _CheckpointUnpickler

    @staticmethod
    def load(file: IO[bytes], **options: Any) -> Any:
        return _CheckpointUnpickler(file, **options).load()


class _Module(Inert):
    """Stands for a TorchScript module: a dictionary of its weights, submodules and other attributes."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.update(state)


def _view(storage: torch.Tensor, offset: int, size: Any, stride: Any, *_: Any) -> torch.Tensor:
    """Stands for torch._utils._rebuild_tensor_v2."""
    return storage.as_strided(size, stride, offset)


class _ScriptUnpickler(SafeUnpickler):
    """Reads the objects of a TorchScript archive; `root` is the folder that everything in it lies in."""

    known: ClassVar[Names] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _view,
        **{("torch", name): dtype for name, dtype in STORAGES.items()},
    }

    def __init__(self, file: IO[bytes], archive: zipfile.ZipFile, root: str):
        super().__init__(file)
        self.archive, self.root = archive, root

    def unknown(self, module: str, name: str) -> Any:
        return _Module

    def persistent_load(self, pid: Any) -> torch.Tensor:
        _, dtype, key, _, count, *_ = pid
        if not count:
            return torch.empty(0, dtype=dtype)
        return torch.frombuffer(bytearray(self.archive.read(f"{self.root}data/{key}")), dtype=dtype)


def _read_torchscript(archive: zipfile.ZipFile, root: str) -> dict[str, torch.Tensor]:
    """Read the tensors of a TorchScript archive, by the names that its modules give them."""

    def tensors(module: dict[Any, Any], prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
        for name, value in module.items():
            if isinstance(value, torch.Tensor):
                yield f"{prefix}{name}", value
            elif isinstance(value, _Module):
                yield from tensors(value, f"{prefix}{name}.")

    with archive.open(f"{root}data.pkl") as file:
        return dict(tensors(_ScriptUnpickler(file, archive, root).load(), ""))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a .pt, .pth, .ckpt, .bin or .safetensors file without running anything in it.

    Args:
        path: The file.

    Returns:
        Its content, tensors on the CPU, memory-mapped where the format allows it.

    Raises:
        ModelError: For anything that is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    with path.open("rb") as file:
        start = file.read(START_BYTES)
    if what := stand_in(start):
        raise ModelError(f"{path}: {what}")
    try:
        content = _read(path, zipped=start.startswith(b"PK"))
    except Exception as error:  # the readers raise a dozen kinds for damaged files
        not_damaged(error, path)
        raise ModelError(f"{path}: damaged, or no checkpoint: {_first_sentence(error)}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: holds a {type(content).__name__}, not a dictionary of weights")
    return content


def _first_sentence(error: Exception) -> str:
    """Drop the paragraphs of advice that torch adds, some of it bad: to run what is in the file."""
    return first_line(error).split(". ")[0]


def _read(path: Path, zipped: bool) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    if zipped:
        with zipfile.ZipFile(path) as archive:
            constants = [
                name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/constants.pkl")
            ]
            if constants:  # what torch too knows TorchScript by
                return _read_torchscript(archive, constants[0].removesuffix("constants.pkl"))
    options: dict[str, Any] = {"map_location": "cpu", "mmap": zipped or None}
    try:
        return torch.load(path, weights_only=True, **options)
    except pickle.UnpicklingError:
        return torch.load(path, weights_only=False, pickle_module=_PickleModule("inert_pickle"), **options)


def weights_of(content: dict[str, Any], path: Path) -> dict[str, torch.Tensor]:
    """Find the tensors of a checkpoint by name, whatever holds them.

    Args:
        content: As `read_checkpoint` gives it.
        path: Of the file, for errors.

    Raises:
        ModelError: Where there are none.
    """
    for wrapper in WRAPPERS:
        if isinstance(content.get(wrapper), dict) and not isinstance(content[wrapper], Inert):
            content = content[wrapper]
    weights = {name: v for name, v in content.items() if isinstance(name, str) and isinstance(v, torch.Tensor)}
    if not weights:
        raise ModelError(f"{path}: holds no weights")
    for name, value in weights.items():
        if value.layout != torch.strided or value.is_meta:
            raise ModelError(f"{path}: weight {name!r} is no plain array ({value.layout}, on {value.device})")
        if value.is_floating_point() and value.itemsize == 1:
            kind = str(value.dtype).removeprefix("torch.")
            raise ModelError(f"{path}: weight {name!r} is {kind}, which is not read; give fp16 or more")
    return _unwrapped(weights, path)


def _unwrapped(weights: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """Drop what torch.compile and the wrappers for several devices put into names."""
    found = {_EMA_WRAPPED.sub(r"\1", _WRAPPED.sub("", name)): value for name, value in weights.items()}
    if len(found) < len(weights):
        raise ModelError(f"{path}: holds weights twice, wrapped (module., _orig_mod.) and not")
    return found


def without_prefix(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Drop the prefix of the weights' names, where all names share it."""
    if not all(name.startswith(prefix) for name in weights):
        return weights
    return {name.removeprefix(prefix): value for name, value in weights.items()}


def check_state(net: "torch.nn.Module", state: "dict[str, torch.Tensor]", source: Path) -> None:
    """Check that weights match a network to the last name and shape.

    Args:
        net: The network.
        state: The weights.
        source: Where they are from, for errors.

    Raises:
        ModelError: Naming the first weight that is missing, of the wrong shape or unexpected.
    """
    expected = net.state_dict()
    for name, value in expected.items():
        if name not in state:
            raise ModelError(f"{source}: weight {name!r} is missing")
        if state[name].shape != value.shape:
            found, wanted = tuple(state[name].shape), tuple(value.shape)
            raise ModelError(f"{source}: weight {name!r} has shape {found}, not {wanted}")
    for name in state:
        if name not in expected:
            raise ModelError(f"{source}: weight {name!r} is not part of this network")
