"""ST-LPIPS: how unlike two images look to a network trained for recognition; its weights come with a package."""

from importlib.util import find_spec

from torch import nn

from largegen.errors import InputError


def load_perceptual(network: str = "vgg") -> nn.Module:
    """Load the shift-tolerant LPIPS of Ghildyal & Liu (ECCV 2022).

    It takes images (B, 3, H, W) in [-1, 1], twice, and gives (B, 1, 1, 1).

    network: `vgg` or `alex`. Raises InputError where the package that carries the weights is missing.
    """
    if find_spec("stlpips_pytorch") is None:
        raise InputError("a perceptual distance needs stlpips-pytorch: pip install 'largegen[perceptual]'")
    from stlpips_pytorch.stlpips import LPIPS

    return LPIPS(net=network, variant="shift_tolerant", verbose=False).eval().requires_grad_(False)
