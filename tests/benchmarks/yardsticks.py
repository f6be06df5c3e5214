"""Tiles, crops and linear probes of their embeddings."""

from collections.abc import Callable

import numpy as np


def random_crops(image: np.ndarray, size_px: int, count: int, seed: int) -> np.ndarray:
    """`count` random crops, overlapping, (count, size_px, size_px, 3) uint8, of an image (H, W, 3)."""
    rng = np.random.default_rng(seed)
    height, width = image.shape[:2]
    tops = rng.integers(height - size_px + 1, size=count)
    lefts = rng.integers(width - size_px + 1, size=count)
    return np.stack([image[y : y + size_px, x : x + size_px] for y, x in zip(tops, lefts, strict=True)])


def tiles_of(image: np.ndarray, size_px: int) -> np.ndarray:
    """Whole tiles side by side, row by row: (N, size_px, size_px, 3)."""
    rows, cols = image.shape[0] // size_px, image.shape[1] // size_px
    whole = image[: rows * size_px, : cols * size_px]
    return whole.reshape(rows, size_px, cols, size_px, 3).swapaxes(1, 2).reshape(-1, size_px, size_px, 3)


def encode_all(encode: Callable[[np.ndarray], np.ndarray], images: np.ndarray, batch: int = 32) -> np.ndarray:
    """Embeddings (N, D) of images (N, h, w, 3), `batch` at a time."""
    return np.concatenate([encode(images[i : i + batch]) for i in range(0, len(images), batch)])


def ridge(inputs: np.ndarray, targets: np.ndarray, strength: float = 1e-2) -> Callable[[np.ndarray], np.ndarray]:
    """Fit a linear map of inputs (N, D) to targets (N, K), and give it as a function of new inputs.

    strength: of the penalty on the weights, relative to the number of samples, for standardised inputs.
    """
    centre, scale, offset = inputs.mean(0), inputs.std(0) + 1e-12, targets.mean(0)
    z = (inputs - centre) / scale
    penalty = strength * len(z) * np.eye(z.shape[1])
    weights = np.linalg.solve(z.T @ z + penalty, z.T @ (targets - offset))
    return lambda new: (new - centre) / scale @ weights + offset


def r_squared(predicted: np.ndarray, true: np.ndarray) -> float:
    """The part of the variance of `true` (N, K) that is explained: 1 is all of it, 0 none, as by the mean."""
    return float(1 - np.square(true - predicted).sum() / np.square(true - true.mean(0)).sum())
