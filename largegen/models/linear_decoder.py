"""The affine map nearest to an autoencoder's decoder, for what a downsampled image shows."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from largegen.models.storage import SavedTensors


@dataclass(frozen=True)
class LinearDecoder(SavedTensors):
    """The affine map from one latent to its square of pixels that comes closest to an autoencoder's decoder."""

    weight: Tensor  # (3, f, f, C)
    bias: Tensor  # (3, f, f)

    @property
    def factor(self) -> int:
        """Pixels per latent, in each direction."""
        return int(self.weight.shape[1])


def fit_linear_decoder(decode: Callable[[Tensor], Tensor], latents: Tensor) -> LinearDecoder:
    """Find the affine map nearest to a decoder, by least squares.

    Args:
        decode: Latents (n, C, h, w) -> images (n, 3, f*h, f*w) in [-1, 1].
        latents: (N, C, h, w), over which it is nearest.
    """
    images = torch.cat([decode(part).float().cpu() for part in latents.split(4)]).clamp(-1, 1)
    factor = images.shape[-1] // latents.shape[-1]
    squares = F.pixel_unshuffle(images, factor).movedim(1, -1).flatten(0, -2).double()  # (M, 3 f f)
    inputs = latents.cpu().movedim(1, -1).flatten(0, -2).double()
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1, dtype=torch.float64)], 1)
    gram = inputs.T @ inputs
    gram += 1e-6 * gram.trace() / len(gram) * torch.eye(len(gram), dtype=torch.float64)
    solution = torch.linalg.solve(gram, inputs.T @ squares).float()  # (C + 1, 3 f f)
    return LinearDecoder(
        weight=solution[:-1].T.reshape(3, factor, factor, -1),
        bias=solution[-1].reshape(3, factor, factor),
    )
