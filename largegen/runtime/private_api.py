"""What this package uses of others below their public line, all in one place: an upgrade of theirs may take it away.

Each has a test in tests/runtime/test_private_api.py that says what is gone. The packages are imported when needed, so
that this file costs nothing.
"""

from types import ModuleType

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
