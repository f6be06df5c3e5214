"""Devices and precisions by name."""

import pytest
import torch

from largegen.errors import InputError
from largegen.runtime.device import resolve_device, resolve_precision


def test_devices_that_are_not_there():
    assert resolve_device("cpu") == torch.device("cpu")
    for name in ("gpu", "meta", *([] if torch.cuda.is_available() else ["cuda"])):
        with pytest.raises(InputError, match=f"`device` {name}"):
            resolve_device(name)


def test_precisions():
    cpu = torch.device("cpu")
    assert resolve_precision("fp32", cpu) == torch.float32
    assert resolve_precision("bf16", cpu) == torch.bfloat16
    assert resolve_precision("auto", cpu) in (torch.float32, torch.bfloat16)
    assert resolve_precision("fp16", torch.device("cuda")) == torch.float16
    for name in ("fp16", "double"):
        with pytest.raises(InputError, match=f"`precision` {name}"):
            resolve_precision(name, cpu)
