"""A guide: what a picture looks like from afar, and the smallest change of its latents that makes it look so.

The guide is only ever seen through a k-fold downsampling, which leaves of the decoder little more than a linear map. So
in place of the published inner iteration [Z, alg. 1], with its decoder, two encoders and two denoisers per tile and
iteration, the constraint is solved in closed form for a linear decoder.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from largegen.errors import InputError, ModelError
from largegen.networks import save_tensors

RIDGE = 1e-2  # of the constraint's mean gain: latents that hardly show in the guide are left alone


@dataclass(frozen=True)
class LinearDecoder:
    """The affine map from one latent to its square of pixels that comes closest to an autoencoder's decoder."""

    weight: Tensor  # (3, f, f, C)
    bias: Tensor  # (3, f, f)

    @property
    def factor(self) -> int:
        """Pixels per latent, in each direction."""
        return self.weight.shape[1]


def fit_linear_decoder(decode: Callable[[Tensor], Tensor], latents: Tensor) -> LinearDecoder:
    """Least squares over what `decode` makes of latents (N, C, h, w): pictures (N, 3, f*h, f*w) in [-1, 1]."""
    pictures = torch.cat([decode(part).float().cpu() for part in latents.split(4)]).clamp(-1, 1)
    factor = pictures.shape[-1] // latents.shape[-1]
    squares = F.pixel_unshuffle(pictures, factor).movedim(1, -1).flatten(0, -2).double()  # (M, 3 f f)
    inputs = latents.cpu().movedim(1, -1).flatten(0, -2).double()
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1, dtype=torch.float64)], 1)
    gram = inputs.T @ inputs
    gram += 1e-6 * gram.trace() / len(gram) * torch.eye(len(gram), dtype=torch.float64)
    solution = torch.linalg.solve(gram, inputs.T @ squares).float()  # (C + 1, 3 f f)
    return LinearDecoder(
        weight=solution[:-1].T.reshape(3, factor, factor, -1),
        bias=solution[-1].reshape(3, factor, factor),
    )


def save_linear_decoder(decoder: LinearDecoder, path: Path) -> None:
    """Write it as safetensors."""
    save_tensors({"weight": decoder.weight.contiguous(), "bias": decoder.bias.contiguous()}, path)


def load_linear_decoder(path: Path) -> LinearDecoder | None:
    """What `save_linear_decoder` wrote, None where there is no such file. Raises ModelError for a damaged one."""
    if not path.exists():
        return None
    try:
        return LinearDecoder(**load_file(path))
    except (OSError, SafetensorError, TypeError) as error:
        raise ModelError(f"{path}: damaged: {error}") from error


class GuideConstraint:
    """Corrects predicted clean latents so that their picture, shrunk, is the guide.

    guide: (1, 3, H, W) in [-1, 1]; shrink: px of the picture per px of the guide, in each direction. Raises InputError
    where `shrink` and the decoder's factor do not divide each other.
    """

    def __init__(self, decoder: LinearDecoder, guide: Tensor, shrink: int):
        factor = decoder.factor
        if factor % shrink and shrink % factor:
            raise InputError(f"a guide {shrink} times smaller does not fit to {factor} px per latent")
        self.pooled = max(1, shrink // factor)  # latents per px of the guide
        self.cells = cells = max(1, factor // shrink)  # px of the guide per latent
        part = factor // cells
        weight = decoder.weight.reshape(3, cells, part, cells, part, -1).mean((2, 4)).flatten(0, 2)
        self.bias = decoder.bias.reshape(3, cells, part, cells, part).mean((2, 4)).flatten()
        self.weight = weight  # (3 cells cells, C): a latent's share of what the guide sees of it
        gram = weight.T @ weight
        ridge = RIDGE * gram.trace() / len(weight) * torch.eye(len(gram))
        self.inverse = torch.linalg.solve(gram + ridge, weight.T)  # (C, 3 cells cells)
        self.target = F.pixel_unshuffle(guide.cpu().float(), cells)

    def seen(self, latents: Tensor) -> Tensor:
        """What the guide would be of latents (1, C, h, w), in the shape of `target`."""
        pooled = F.avg_pool2d(latents, self.pooled) if self.pooled > 1 else latents
        return _pointwise(self.weight, pooled) + self.bias.to(latents)[:, None, None]

    def __call__(self, latents: Tensor) -> Tensor:
        """Latents (1, C, h, w) with the smallest smooth change, all but, after which `seen` is the guide."""
        change = _pointwise(self.inverse, self.target.to(latents) - self.seen(latents))
        rows, cols = (_spreading(side, self.pooled).to(latents) for side in change.shape[-2:])
        return latents + rows @ change @ cols.T


@cache
def _spreading(count: int, times: int) -> Tensor:
    """(times * count, count): stretches a line linearly, without the steps that repeating its points would leave, so
    that the mean over each `times` is the point it stands for."""
    points = torch.eye(count, dtype=torch.float64)[:, None]
    stretched = F.interpolate(points, scale_factor=times, mode="linear")
    means = F.avg_pool1d(stretched, times)[:, 0].T
    return (stretched[:, 0].T @ torch.linalg.inv(means)).float()


def _pointwise(matrix: Tensor, latents: Tensor) -> Tensor:
    return torch.einsum("oc,bchw->bohw", matrix.to(latents), latents)
