"""Embeddings between the tiles of a grid: spherical interpolation.

[L] is "Learned representation-guided diffusion models for large-image generation", CVPR 2024.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

NEARLY_PARALLEL = 0.9995  # |cos| above which slerp divides by almost nothing, so lerp takes its place


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Interpolate spherically from `a` at t = 0 to `b` at t = 1 [L, sec. 3]; linear where |cos| > 0.9995.

    The angle is that between the directions; the lengths are carried along.

    Args:
        a: (N, D) float, of any length.
        b: (N, D) float, of any length.
        t: (N,) in [0, 1].

    Returns:
        (N, D).
    """
    t = t[:, None]
    cos = (F.normalize(a, dim=-1) * F.normalize(b, dim=-1)).sum(-1, keepdim=True)
    linear = cos.abs() > NEARLY_PARALLEL
    angle = torch.acos(torch.where(linear, 0, cos))  # any harmless angle where the result is not used
    arc = (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)
    return torch.where(linear, torch.lerp(a, b, t), arc)


def interpolate_grid(features: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Interpolate between the points of a grid: slerp along the row, then between the two rows [L, sec. 3].

    The grid continues past its edges by repetition.

    Args:
        features: (R, C, D) float, one embedding per tile, on any device.
        y: (N,) in tiles, on the CPU; 0 is the first tile.
        x: The same along the columns.

    Returns:
        (N, D) float32.
    """
    features = features.float()
    rows, cols, _ = features.shape
    y, x = y.double().clamp(0, rows - 1), x.double().clamp(0, cols - 1)  # on the CPU: not every device has float64
    top, left = y.floor().long(), x.floor().long()
    bottom, right = (top + 1).clamp(max=rows - 1), (left + 1).clamp(max=cols - 1)
    # Two copies to the device, whatever the number of places.
    at = torch.stack((torch.stack((top, bottom, top, bottom)), torch.stack((left, left, right, right))))
    row, col = at.to(features.device)
    v, u = torch.stack(((y - top).float(), (x - left).float())).to(features.device)
    lefts, rights = features[row, col].chunk(2)  # (2, N, D) each, of the upper row and of the lower one
    upper, lower = slerp(lefts.flatten(0, 1), rights.flatten(0, 1), u.repeat(2)).chunk(2)
    return slerp(upper, lower, v)
