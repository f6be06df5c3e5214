"""Pixels to networks' inputs and back: uint8 <-> float in [-1, 1]."""

import numpy as np
import torch
from torch import Tensor

from largegen.errors import InputError


def to_uint8(pixels: Tensor) -> Tensor:
    """Round pixels, clamped to [-1, 1], to the nearest grey level: -1 -> 0, 1 -> 255."""
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def to_network(images: np.ndarray) -> torch.Tensor:
    """Turn images (..., H, W, 3) uint8 -> (..., 3, H, W) float32 in [-1, 1]."""
    tensor = torch.from_numpy(np.ascontiguousarray(images)).movedim(-1, -3)
    return tensor.float() / 127.5 - 1


def to_images(tensor: torch.Tensor) -> np.ndarray:
    """Turn (..., 3, H, W) float in [-1, 1] -> images (..., H, W, 3) uint8."""
    array: np.ndarray = to_uint8(tensor.float()).movedim(-3, -1).cpu().numpy()
    return array


def check_image(image: np.ndarray) -> None:
    """Raise InputError, naming it `image`, for an array that is not (H, W, 3) uint8, or has no pixel."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(f"`image` {image.dtype} of shape {image.shape}: must be uint8 (height, width, 3)")
    if not image.size:
        raise InputError(f"`image` of shape {image.shape}: is empty")
