"""What other packages may take away with an upgrade is still there, and does what it is used for."""

import ast
import inspect
import re
import subprocess
import sys
import typing
from importlib.util import find_spec

import numpy as np
import pytest
import pyvips
import torch
import typer
from diffusers import DDPMScheduler
from helpers import ROOT

from largegen.runtime import private_api
from largegen.runtime.private_api import SCHEDULER_MEMORY
from largegen.sampling.schedulers import SCHEDULERS, make_scheduler

HERE = "change largegen/runtime/private_api.py"
PUBLIC = {"_asdict", "_replace"}  # of named tuples
IN_FILES = {"_utils", "_rebuild_tensor_v2", "_rebuild_parameter"}  # what the files of torch.save name


def private_names(path) -> set[str]:
    """Names with one underscore that a file uses of what is not its own."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    used, own = set(), PUBLIC | IN_FILES
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            mine = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            (own if mine else used).add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            used |= {alias.name for alias in node.names}
    return {name for name in used - own if re.match("_[^_]", name)}


def test_no_other_file_uses_what_is_private():
    files = [path for path in (ROOT / "largegen").rglob("*.py") if path.name != "private_api.py"]
    found = {path.name: names for path in files if (names := private_names(path))}
    assert not found, f"calls below the public line of other packages belong into {HERE.removeprefix('change ')}"


def test_torch_says_whether_the_cpu_has_bf16():
    gone = f"torch has no torch.cpu._is_avx512_bf16_supported any more; {HERE}: cpu_has_bf16"
    assert hasattr(torch.cpu, "_is_avx512_bf16_supported"), gone
    assert private_api.cpu_has_bf16() in (True, False)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("create_unet_diffusers_config_from_ldm", 2),
        ("convert_ldm_unet_checkpoint", 2),
        ("create_vae_diffusers_config_from_ldm", 2),
        ("convert_ldm_vae_checkpoint", 2),
    ],
)
def test_diffusers_converts_latent_diffusion(name, parameters):
    """What they give is tested in tests/models/convert."""
    function = getattr(private_api.ldm_conversion(), name, None)
    assert function, f"diffusers.loaders.single_file_utils has no {name} any more; {HERE}: ldm_conversion"
    required = list(inspect.signature(function).parameters)[:parameters]
    assert len(required) == parameters, f"{name} takes other parameters than before; {HERE}: ldm_conversion"


@pytest.mark.skipif(find_spec("transformers") is not None, reason="transformers is installed, and loads them all")
def test_diffusers_does_without_what_is_not_used():
    program = (
        "import sys, torch; from largegen.runtime.private_api import NAMED, UNUSED, load_diffusers_sparingly; "
        "disable = torch.compiler.disable; load_diffusers_sparingly(); "
        "from largegen import load_model; load_model('tissue', 'cpu'); "
        "print({*UNUSED, NAMED, 'sympy'} & {*sys.modules}, torch.compiler.disable is disable); import timm; "
        "print('torch._dynamo' in sys.modules, sys.modules['torchvision.ops.roi_align'].is_compile_supported('cpu')); "
        "from torch._dynamo.utils import is_compile_supported as own; import torchvision, scipy; "
        "from torch.nn.attention.flex_attention import BlockMask; BlockMask.from_kv_blocks; print(own('cpu'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    hint = f"diffusers or timm needs what it was not given, or loads it all the same; {HERE}: load_diffusers_sparingly"
    assert (done.stdout, done.returncode) == ("set() True\nFalse True\nTrue\n", 0), f"{hint}\n{done.stderr}"


def test_typer_has_one_class_of_usage_errors():
    found = private_api.usage_error()
    gone = f"typer.BadParameter is no longer derived from its class of usage errors; {HERE}: usage_error"
    assert issubclass(found, Exception) and found is not Exception and hasattr(found, "format_message"), gone
    app = typer.Typer()
    app.command()(lambda: None)
    with pytest.raises(found):
        app(["--unknown"], standalone_mode=False)


def test_libvips_has_an_error_buffer():
    for name in ("vips_error_buffer", "vips_error_clear"):
        assert hasattr(pyvips.vips_lib, name), f"pyvips.vips_lib has no {name} any more; {HERE}: vips_error_pending"
    private_api.clear_vips_error(pyvips)
    assert not private_api.vips_error_pending(pyvips)
    pyvips.vips_lib.vips_foreign_find_load(b"/nowhere/absent.tif")
    assert private_api.vips_error_pending(pyvips)
    private_api.clear_vips_error(pyvips)
    assert not private_api.vips_error_pending(pyvips)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_remember_in_the_fields_that_are_saved(name):
    """Whatever a scheduler changes while it steps is among the fields, and with them another one continues."""
    gone = f"diffusers' {name} scheduler remembers in other fields than {SCHEDULER_MEMORY}; {HERE}: SCHEDULER_MEMORY"
    train = DDPMScheduler(num_train_timesteps=1000)
    first, second, fresh = (make_scheduler(name, train, 6) for _ in range(3))
    rng = np.random.default_rng(0)
    eps = [torch.from_numpy(rng.standard_normal((1, 4, 8, 8))) for _ in range(6)]
    latents = torch.ones(1, 4, 8, 8, dtype=torch.float64)
    for step in range(3):
        latents = first.step(eps[step], first.timesteps[step], latents).prev_sample
    untouched = vars(fresh)
    changed = {key for key, value in vars(first).items() if not _equal(value, untouched.get(key))}
    assert changed <= {*SCHEDULER_MEMORY, "timestep_list"}, gone  # the list is for a `solver_p` of one's own only
    for key in SCHEDULER_MEMORY:
        if hasattr(first, key):
            setattr(second, key, getattr(first, key))
    ends = []
    for scheduler in (second, first):
        end = latents
        memory = {key: _copied(getattr(scheduler, key)) for key in SCHEDULER_MEMORY if hasattr(scheduler, key)}
        vars(scheduler).update(memory)
        for step in range(3, 6):
            end = scheduler.step(eps[step], scheduler.timesteps[step], end).prev_sample
        ends.append(end)
    assert torch.equal(*ends), gone


def _equal(one: typing.Any, other: typing.Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return all(map(_equal, one, other))
    return bool(np.all(one == other)) if isinstance(one, np.ndarray) else one == other


def _copied(value: typing.Any) -> typing.Any:
    return list(value) if isinstance(value, list) else value
