"""Figures of a generated picture's quality: seams, tile retrieval, PSNR."""

from collections.abc import Callable, Sequence

import numpy as np

from largegen.windows import axis_starts

GREY = np.array([0.299, 0.587, 0.114])


def window_borders(size: int, window: int, stride: int) -> list[int]:
    """Where windows every `stride` begin or end inside 0..size; the unit is the arguments'."""
    starts = axis_starts(size, window, stride)
    return sorted({border for start in starts for border in (start, start + window)} - {0, size})


def seam_score(picture: np.ndarray, rows: Sequence[int], cols: Sequence[int], phase: int = 1) -> float:
    """Mean absolute gradient across border lines, relative to elsewhere: 1 is no seam, 2 one twice as steep.

    picture: (H, W, 3) uint8; rows, cols: the borders lie before these pixel rows and columns. phase: compare with lines
    at multiples of `phase` px only, so that the autoencoder's own grid (its px per latent) does not pass for a seam.
    """
    grey = picture.astype(np.float64) @ GREY
    at_border, elsewhere = [], []
    for lines, image in ((rows, grey), (cols, grey.T)):
        steps = np.abs(np.diff(image, axis=0)).mean(1)  # steps[i]: between lines i and i + 1
        for line in range(phase, len(image), phase):
            (at_border if line in lines else elsewhere).append(steps[line - 1])
    return float(np.mean(at_border) / np.mean(elsewhere))


def unit(embeddings: np.ndarray) -> np.ndarray:
    """Embeddings (N, D) made of length 1, as the conditioner sees them."""
    return embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)


def random_crops(picture: np.ndarray, size_px: int, count: int, seed: int) -> np.ndarray:
    """`count` random crops, overlapping, (count, size_px, size_px, 3) uint8, of a picture (H, W, 3)."""
    rng = np.random.default_rng(seed)
    height, width = picture.shape[:2]
    tops = rng.integers(height - size_px + 1, size=count)
    lefts = rng.integers(width - size_px + 1, size=count)
    return np.stack([picture[y : y + size_px, x : x + size_px] for y, x in zip(tops, lefts, strict=True)])


def tiles_of(picture: np.ndarray, size_px: int) -> np.ndarray:
    """Whole tiles side by side, row by row: (N, size_px, size_px, 3)."""
    rows, cols = picture.shape[0] // size_px, picture.shape[1] // size_px
    whole = picture[: rows * size_px, : cols * size_px]
    return whole.reshape(rows, size_px, cols, size_px, 3).swapaxes(1, 2).reshape(-1, size_px, size_px, 3)


def encode_all(encode: Callable[[np.ndarray], np.ndarray], pictures: np.ndarray, batch: int = 32) -> np.ndarray:
    """Embeddings (N, D) of pictures (N, h, w, 3), `batch` at a time."""
    return np.concatenate([encode(pictures[i : i + batch]) for i in range(0, len(pictures), batch)])


def retrieval(generated: np.ndarray, real: np.ndarray) -> int:
    """Of tiles' embeddings (N, D), how many have the real one of the same place as nearest neighbour (cosine)."""
    return int(((unit(generated) @ unit(real).T).argmax(1) == np.arange(len(real))).sum())


def psnr(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """PSNR in dB of pictures (N, h, w, 3) uint8: of the mean squared error over all, and the mean over pictures."""
    errors = np.square(a.astype(np.float64) - b).mean((1, 2, 3))
    decibel = 10 * np.log10(255**2 / np.maximum([errors.mean(), *errors], 1e-12))
    return float(decibel[0]), float(decibel[1:].mean())


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
