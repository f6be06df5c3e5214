"""TorchScript files hold programs: those that are not known are loaded only where they do nothing but arithmetic.

A TorchScript program can write files, for one. What its code names of torch must be in the list here.
"""

import re
import zipfile
from pathlib import Path

import torch

from largegen.errors import ModelError, first_line
from largegen.runtime.files import not_damaged

# Arithmetic of images and features, and what the compiler puts between.
_LISTED = """
forward _conv_forward _check_input_dim conv2d _convolution linear addmm matmul mm batch_norm instance_norm layer_norm
group_norm relu relu_ relu6 hardtanh hardtanh_ sigmoid tanh gelu softmax log_softmax dropout dropout_ avg_pool2d
max_pool2d adaptive_avg_pool2d adaptive_max_pool2d mean sum std var cat stack chunk split flatten reshape view permute
transpose t squeeze unsqueeze expand expand_as contiguous add add_ sub sub_ mul mul_ div div_ neg rsqrt sqrt pow square
exp log abs clamp clamp_ clip minimum maximum min max where zeros ones full eye arange linspace zeros_like ones_like
tensor as_tensor to type_as float half bfloat16 int bool str len range size dim numel shape slice select narrow
index_select floordiv floor ceil round remainder eq ne lt gt le ge __is__ __isnot__ __not__ format append
interpolate norm upsample_bilinear2d upsample_bicubic2d upsample_nearest2d pad constant_pad_nd affine_grid
affine_grid_generator grid_sample grid_sampler grid_sampler_2d
flip roll detach clone isinstance annotate uninitialized unchecked_cast
unchecked_unwrap_optional NumToTensor Int Float Bool RaiseException AssertionError ValueError TupleConstruct
ListConstruct warn item tuple device dtype is_floating_point
"""
ARITHMETIC = frozenset(_LISTED.split())


def check_script(path: Path) -> None:
    """Check that the program in a TorchScript file only computes.

    Raises:
        ModelError: Where it names anything else, or is no TorchScript file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if "code/" in name and name.endswith(".py")]
            code = "\n".join(archive.read(name).decode() for name in names)
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        not_damaged(error, path)
        raise ModelError(f"{path}: not a TorchScript file with `layers`: {first_line(error)}") from error
    text = code + re.sub("#.*", "", code)  # a comment may stand within a name, and a string look like a comment
    gap = r"[\s\\]*"
    named = re.findall(rf"\.{gap}(\w+)", text)
    found = re.findall(rf"\bgetattr{gap}\([^\"']*[\"'](\w+)[\"']{gap}\)", text)
    spaces = re.findall(rf"\bops{gap}\.{gap}(\w+)", text)
    primitive = re.findall(rf"\bops{gap}\.{gap}\w+{gap}\.{gap}(\w+)", text)
    refused = [name for name in (*named, *found) if hasattr(torch.ops.aten, name) or name == "classes"] + primitive
    refused = [name for name in refused if name not in ARITHMETIC] + [space for space in spaces if space != "prim"]
    if refused or len(found) != text.count("getattr"):
        what = refused[0] if refused else "attributes by hidden names"
        raise ModelError(f"{path}: its program uses {what}, which no network of images needs; not loaded")
