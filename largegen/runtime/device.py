"""Device, precision and memory: where and in what numbers networks compute."""

import os
import sys
from typing import TYPE_CHECKING

from largegen.errors import InputError
from largegen.runtime.private_api import cpu_has_bf16

if TYPE_CHECKING:
    import torch


OWN_GPU = "LARGEGEN_GPU"  # environment variable: number of this process's GPU, where it has left its launcher's group
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def resolve_device(device: str = "auto") -> "torch.device":
    """Turn the name of a device into one that exists here.

    Args:
        device: auto, cpu, cuda, cuda:N or mps. Under `accelerate launch`, `auto` and `cuda` mean this process's GPU.

    Raises:
        InputError: For a device that this machine lacks.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"`device` {device}: not a device; use auto, cpu, cuda, cuda:N or mps") from error
    if found.type == "cuda":
        if not torch.cuda.is_available():
            raise InputError(f"`device` {device}: this machine has no usable CUDA GPU; use cpu or auto")
        index = int(os.environ.get(OWN_GPU, os.environ.get("LOCAL_RANK", 0))) if found.index is None else found.index
        if index >= torch.cuda.device_count():
            raise InputError(f"`device` {device}: only {torch.cuda.device_count()} CUDA GPU(s) here")
        return torch.device("cuda", index)
    if found.type == "mps" and not torch.backends.mps.is_available():
        raise InputError(f"`device` {device}: this machine has no Apple GPU; use cpu or auto")
    if found.type not in ("cpu", "mps"):
        raise InputError(f"`device` {device}: not a device; use auto, cpu, cuda, cuda:N or mps")
    return found


def resolve_precision(precision: str, device: "torch.device") -> "torch.dtype":
    """Turn the name of a precision into a dtype.

    Args:
        precision: auto, fp32, bf16 or fp16; `auto` is bf16 where the device computes in it natively, else fp32.
        device: What is computed on.

    Raises:
        InputError: For an unknown name, and for fp16 on a CPU, where it is slower than fp32.
    """
    import torch

    if precision not in PRECISIONS:
        raise InputError(f"`precision` {precision}: use one of {', '.join(PRECISIONS)}")
    if precision == "fp16" and device.type == "cpu":
        raise InputError("`precision` fp16: not on a CPU; use bf16 or fp32")
    if precision == "auto":
        native = {"cpu": cpu_has_bf16, "cuda": torch.cuda.is_bf16_supported}.get(device.type, lambda: False)
        return torch.bfloat16 if native() else torch.float32
    return dtype_of(precision)


def export_dtype(precision: str) -> "torch.dtype":
    """Turn the name of a precision into the dtype that weights are saved in.

    Raises:
        InputError: For a name other than fp32, bf16 and fp16.
    """
    if precision not in PRECISIONS[1:]:
        raise InputError(f"`export_precision` {precision}: use one of {', '.join(PRECISIONS[1:])}")
    return dtype_of(precision)


def dtype_of(precision: str) -> "torch.dtype":
    """Return the dtype that `fp32`, `bf16` or `fp16` names."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next tensors, where it can be told to (glibc).

    By default it gives every large block back to the system and faults it in anew, which takes a quarter of a CPU's
    time in sampling and training.
    """
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        trim_threshold, mmap_max = -1, -4
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_max, 0)
