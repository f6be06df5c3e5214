"""The guide as a constraint: the smallest change of an image's latents that makes it look like its guide.

The guide is only ever seen through a k-fold downsampling, which leaves of the decoder little more than a linear map. So
in place of the published inner iteration [Z, alg. 1], with its decoder, two encoders and two denoisers per tile and
iteration, the constraint is solved in closed form for a linear decoder.
"""

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from largegen.errors import InputError
from largegen.models.linear_decoder import LinearDecoder
from largegen.models.model import Model

RIDGE = 1e-2  # of the constraint's mean gain: latents that hardly show in the guide are left alone


class GuideConstraint:
    """Corrects predicted clean latents so that their image, downsampled, is the guide.

    Args:
        decoder: the affine map nearest to the autoencoder's decoder.
        guide: (1, 3, H, W) in [-1, 1], or what gives rows (top, bottom) of it, (1, 3, bottom - top, W).
        shrink: px of the image per px of the guide, in each direction.
        height: H, where rows are given.

    Raises:
        InputError: where `shrink` and the decoder's factor do not divide each other.
    """

    def __init__(
        self,
        decoder: LinearDecoder,
        guide: Tensor | Callable[[int, int], Tensor],
        shrink: int,
        height: int = 0,
    ) -> None:
        factor = decoder.factor
        if factor % shrink and shrink % factor:
            raise InputError(f"a guide {shrink} times smaller does not match {factor} px per latent")
        self.pooled = max(1, shrink // factor)  # latents per px of the guide
        self.cells = cells = max(1, factor // shrink)  # px of the guide per latent
        part = factor // cells
        weight = decoder.weight.reshape(3, cells, part, cells, part, -1).mean((2, 4)).flatten(0, 2)
        self.bias = decoder.bias.reshape(3, cells, part, cells, part).mean((2, 4)).flatten()
        self.weight = weight  # (3 cells cells, C): a latent's share of what the guide sees of it
        gram = weight.T @ weight
        ridge = RIDGE * gram.trace() / len(weight) * torch.eye(len(gram))
        self.inverse = torch.linalg.solve(gram + ridge, weight.T)  # (C, 3 cells cells)
        if isinstance(guide, Tensor):
            whole, height = guide.cpu().float(), guide.shape[2]
            self._rows: Callable[[int, int], Tensor] = lambda top, bottom: whole[:, :, top:bottom]
        else:
            self._rows = guide
        self.height = height // cells  # of the guide, in latents or, where it is coarser, in its px

    def seen(self, latents: Tensor) -> Tensor:
        """Return what the guide would be of latents (1, C, h, w), in the shape of `target`'s rows."""
        pooled = F.avg_pool2d(latents, self.pooled) if self.pooled > 1 else latents
        return _pointwise(self.weight, pooled) + self.bias.to(latents)[:, None, None]

    def target(self, top: int, bottom: int) -> Tensor:
        """Return some rows of the guide, (1, 3 cells cells, bottom - top, w)."""
        return F.pixel_unshuffle(self._rows(top * self.cells, bottom * self.cells), self.cells)

    def __call__(self, latents: Tensor) -> Tensor:
        """Change latents (1, C, h, w) smoothly and as little as possible, so that `seen` is nearly the guide."""
        if self.by_rows:
            return self.rows(0, latents)
        change = _pointwise(self.inverse, self.target(0, self.height).to(latents) - self.seen(latents))
        if self.pooled == 1:  # nothing to spread
            return latents + change
        rows, cols = (_spreading(side, self.pooled).to(latents) for side in change.shape[-2:])
        return latents + rows @ change @ cols.T

    @property
    def by_rows(self) -> bool:
        """Whether each latent is changed by itself, because a pixel of the guide is no larger: see CorrectRows."""
        return self.pooled == 1

    def rows(self, top: int, latents: Tensor) -> Tensor:
        """Change rows from `top` on, (1, C, n, w), where `by_rows`."""
        target = self.target(top, top + latents.shape[-2]).to(latents)
        return latents + _pointwise(self.inverse, target - self.seen(latents))


@cache
def _spreading(count: int, times: int) -> Tensor:
    """Return the (times * count, count) matrix that stretches a line linearly.

    It leaves no steps, as repeating the points would, and the mean over each `times` is the point it stands for.
    """
    points = torch.eye(count, dtype=torch.float64)[:, None]
    stretched = F.interpolate(points, scale_factor=times, mode="linear")
    means = F.avg_pool1d(stretched, times)[:, 0].T
    return (stretched[:, 0].T @ torch.linalg.inv(means)).float()


def _pointwise(matrix: Tensor, latents: Tensor) -> Tensor:
    return torch.einsum("oc,bchw->bohw", matrix.to(latents), latents)


def guide_image(model: Model, guide: Tensor) -> Tensor:
    """Decode patches' latents (N, C, w, w) -> (N, 3, tile_px, tile_px) float32 in [-1, 1] on the CPU."""
    return model.autoencoder.decode(guide).cpu().clamp(-1, 1)
