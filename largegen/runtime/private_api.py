"""What this package uses of others below their public line, all in one place: an upgrade of theirs may take it away.

Each has a test in tests/runtime/test_private_api.py that says what is gone. The packages are imported when needed, so
that this file costs nothing.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from types import ModuleType
from typing import Any

# What a multistep scheduler of diffusers remembers from one step to the next; it has no method that saves it.
SCHEDULER_MEMORY = ("model_outputs", "last_sample", "lower_order_nums", "this_order", "_step_index")


def cpu_has_bf16() -> bool:
    """Find out whether this CPU multiplies bfloat16 natively (AVX-512 BF16); elsewhere bf16 is emulated and slow."""
    import torch

    check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(check and check())


def ldm_conversion() -> ModuleType:
    """Return the functions by which diffusers reads checkpoints of latent diffusion; public is only `from_single_file`.

    Used are `create_unet_diffusers_config_from_ldm`, `convert_ldm_unet_checkpoint`,
    `create_vae_diffusers_config_from_ldm` and `convert_ldm_vae_checkpoint`.
    """
    from diffusers.loaders import single_file_utils

    module: ModuleType = single_file_utils
    return module


def usage_error() -> type[Exception]:
    """Return the class of the command line's errors of usage: Typer carries its own copy of Click since 0.26."""
    import typer

    base = typer.BadParameter.__base__
    assert base is not None and issubclass(base, Exception)
    return base


def vips_error_pending(pyvips: ModuleType) -> bool:
    """Find out whether libvips' error buffer, one for all threads, holds a message."""
    return bool(pyvips.ffi.string(pyvips.vips_lib.vips_error_buffer()) != b"")


def clear_vips_error(pyvips: ModuleType) -> None:
    """Empty libvips' error buffer."""
    pyvips.vips_lib.vips_error_clear()


UNUSED = ("torch._dynamo", "torchvision", "scipy")  # loaded with diffusers for what is not used of it here
LOADED_BY = ("diffusers", "diffusers.hooks")


class _Sparing(MetaPathFinder):
    """Calls `UNUSED` absent while the modules are loaded that would load them: they do without them, and know it."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name in LOADED_BY else None
        if spec and spec.loader and not find_spec("transformers"):  # diffusers loads it too, and it needs them
            load = spec.loader.exec_module

            def load_sparingly(module: ModuleType) -> None:
                with _absent(UNUSED):
                    load(module)

            spec.loader.exec_module = load_sparingly  # type: ignore[method-assign]
        return spec


@contextmanager
def _absent(names: Iterable[str]) -> Iterator[None]:
    import torch.compiler

    absent = [name for name in names if name not in sys.modules]
    disable = torch.compiler.disable  # loads torch._dynamo, to mark functions that are not to be compiled
    torch.compiler.disable = lambda function=None, *_, **__: function or (lambda function: function)
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None: an import fails
    try:
        yield
    finally:
        torch.compiler.disable = disable
        for name in absent:
            del sys.modules[name]


def load_diffusers_sparingly() -> None:
    """Let diffusers, when it is loaded, leave out what takes half of its time and is not used here.

    For a program of our own: in another's, diffusers would lack what that program may want of it.
    """
    sys.meta_path.insert(0, _Sparing())
