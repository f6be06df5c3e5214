"""What this package uses of others below their public line, all in one place: an upgrade of theirs may take it away.

Each has a test in tests/runtime/test_private_api.py that says what is gone. The packages are imported when needed, so
that this file costs nothing.
"""

import importlib.metadata
import sys
from collections.abc import Iterator
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


# Loaded with diffusers for what is not used of it here, where that can be absent; and where only its names are needed.
UNUSED = ("torch._dynamo", "torchvision", "scipy")
NAMED = "torch.nn.attention.flex_attention"
LOADED_BY = (
    "diffusers",
    "diffusers.hooks",
    "diffusers.models.attention_dispatch",
    "diffusers.models.transformers",
    "diffusers.utils.import_utils",
)
ASKS = "timm"  # and torchvision, which it loads: for what torch._dynamo says when it is asked


class _Sparing(MetaPathFinder):
    """Calls `UNUSED` absent while the modules are loaded that would load them: they do without them, and know it."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name in (*LOADED_BY, ASKS) else None
        if not spec or not spec.loader:
            return None
        load = spec.loader.exec_module

        def load_sparingly(module: ModuleType) -> None:
            import torch.compiler

            def as_it_is(function: Any = None, *_: Any, **__: Any) -> Any:
                return function or (lambda function: function)

            # `disable` loads torch._dynamo, to mark functions that are not to be compiled.
            with (
                _replaced(torch.compiler, "disable", as_it_is),
                _instead(_asking() if name == ASKS else dict.fromkeys(UNUSED) | {NAMED: _names(NAMED)}),
                _replaced(importlib.metadata, "packages_distributions", dict),  # for the few that are asked for later
            ):
                load(module)

        if name == ASKS or not find_spec("transformers"):  # diffusers loads it too, and it needs them
            spec.loader.exec_module = load_sparingly  # type: ignore[method-assign]
        return spec


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def _instead(modules: dict[str, ModuleType | None]) -> Iterator[None]:
    """Let imports find these modules, or fail for None, unless the real ones are loaded."""
    modules = {name: module for name, module in modules.items() if name not in sys.modules}
    sys.modules.update(modules)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


def _names(name: str) -> ModuleType:
    """Make a module that has any name, for what is imported of it and never used."""
    module = ModuleType(name)

    def get(key: str) -> type:
        if key.startswith("__"):
            raise AttributeError(key)
        return object

    vars(module)["__getattr__"] = get
    return module


def _asking() -> dict[str, ModuleType | None]:
    """Make modules that load torch._dynamo when they are asked, not before."""

    def is_compile_supported(device_type: str) -> Any:
        from torch._dynamo.utils import is_compile_supported

        return is_compile_supported(device_type)

    utils = ModuleType("torch._dynamo.utils")
    vars(utils)["is_compile_supported"] = is_compile_supported
    return {"torch._dynamo": ModuleType("torch._dynamo"), utils.__name__: utils}


def load_diffusers_sparingly() -> None:
    """Let diffusers and timm, when they are loaded, leave out what takes half of their time and is not used here.

    For a program of our own: in another's, diffusers would lack what that program may want of it.
    """
    sys.meta_path.insert(0, _Sparing())
