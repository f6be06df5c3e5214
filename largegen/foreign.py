"""Checkpoints of other projects: read without running or importing anything that they name.

A checkpoint is a pickle, which may call any function. torch's own safe reader refuses what names foreign classes, as
Lightning's checkpoints do in their callbacks; those are read by an unpickler that puts inert objects in their place.
"""

import pickle
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from largegen.errors import ModelError, first_line

WRAPPERS = ("teacher", "student", "state_dict", "model")  # DINO and iBOT hold two: the averaged network comes first
PLAIN = frozenset(
    {
        ("collections", "OrderedDict"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_parameter"),
        ("torch", "Size"),
        ("torch", "device"),
        *(("torch", name) for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "uint8", "bool")),
    }
)

NO_CHECKPOINT = {  # how files begin that people have in place of checkpoints, and what they are
    rb"\Z": "empty",
    rb"(\xef\xbb\xbf)?\s*<[!?a-zA-Z]": "a web page, not a checkpoint: the download failed; fetch it again",
    rb"version https://git-lfs": "a pointer of Git LFS, not the file that it stands for; `git lfs pull` fetches that",
    rb".{257}ustar": "a tar archive, not a checkpoint; unpack it and give what is in it",
}  # "<" alone may be a safetensors header's length


class _Inert(dict):
    """Stands for an object of any other class: takes whatever the pickle does to it, and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass

    def __hash__(self) -> int:
        return id(self)

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass

    def add(self, item: Any) -> None:
        pass


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return super().find_class(module, name) if (module, name) in PLAIN else _Inert


def _pickle_module() -> ModuleType:
    """What torch.load takes for the pickle module."""
    module = ModuleType("inert_pickle")
    module.Unpickler = _Unpickler
    module.load = lambda file, **options: _Unpickler(file, **options).load()
    return module


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a .pt, .pth, .ckpt, .bin or .safetensors file, on the CPU, its tensors mapped where the format
    allows it. Raises ModelError for anything that is no such file."""
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    with path.open("rb") as file:
        start = file.read(512)
    for pattern, what in NO_CHECKPOINT.items():
        if re.match(pattern, start, re.DOTALL):
            raise ModelError(f"{path}: {what}")
    try:
        content = _read(path, zipped=start.startswith(b"PK"))
    except Exception as error:  # the readers raise a dozen kinds for damaged files
        raise ModelError(f"{path}: damaged, or no checkpoint: {_first_sentence(error)}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: holds a {type(content).__name__}, not a dictionary of weights")
    return content


def _first_sentence(error: Exception) -> str:
    """torch adds paragraphs of advice, some of it bad: to run what is in the file."""
    return first_line(error).split(". ")[0]


def _read(path: Path, zipped: bool) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    options = {"map_location": "cpu", "mmap": zipped or None}
    try:
        return torch.load(path, weights_only=True, **options)
    except pickle.UnpicklingError:
        return torch.load(path, weights_only=False, pickle_module=_pickle_module(), **options)


def weights_of(content: dict[str, Any], path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by name, whatever holds them. Raises ModelError where there are none."""
    for wrapper in WRAPPERS:
        if isinstance(content.get(wrapper), dict) and not isinstance(content[wrapper], _Inert):
            content = content[wrapper]
    weights = {name: v for name, v in content.items() if isinstance(name, str) and isinstance(v, torch.Tensor)}
    if not weights:
        raise ModelError(f"{path}: holds no weights")
    for name, value in weights.items():
        if value.layout != torch.strided or value.is_meta:
            raise ModelError(f"{path}: weight {name!r} is no plain array ({value.layout}, on {value.device})")
    return without_prefix(weights, "module.")


def without_prefix(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The weights without the prefix of their names, where all names share it."""
    if not all(name.startswith(prefix) for name in weights):
        return weights
    return {name.removeprefix(prefix): value for name, value in weights.items()}
