"""Figures of windows of embedding grids: distances of tiles and of neighbours, baselines, what is known by heart."""

import numpy as np

from largegen.metrics.distances.frechet import frechet_distance_of_features
from largegen.metrics.distances.kid import kernel_distance
from largegen.metrics.distances.precision_recall import nearest, precision_recall

KERNEL_STRIDE = 3  # of the pairs that a kernel distance is of: its time grows with their square


def windows_of(grids: list[np.ndarray], side: int, stride: int) -> np.ndarray:
    """Cut windows (n, side, side, D) from grids (rows, cols, D)."""
    found = [
        grid[row : row + side, col : col + side]
        for grid in grids
        for row in range(0, grid.shape[0] - side + 1, stride)
        for col in range(0, grid.shape[1] - side + 1, stride)
    ]
    return np.stack(found)


def neighbours_of(windows: np.ndarray) -> np.ndarray:
    """Join the embeddings of tiles that lie side by side or one below the other: (n, 2 D)."""
    beside = np.concatenate([windows[:, :, :-1], windows[:, :, 1:]], -1)
    below = np.concatenate([windows[:, :-1], windows[:, 1:]], -1)
    return np.concatenate([pairs.reshape(-1, pairs.shape[-1]) for pairs in (beside, below)])


def gaussian_like(windows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw windows from the Gaussian of the mean and covariance of whole windows."""
    mean, number = windows.mean(0), len(windows)
    weights = rng.standard_normal((count, number)) / np.sqrt(number - 1)
    return mean + np.tensordot(weights, windows - mean, 1)


def shuffled_like(windows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw windows whose tiles are real ones, each from anywhere."""
    tiles = windows.reshape(-1, windows.shape[-1])
    return tiles[rng.integers(len(tiles), size=(count, *windows.shape[1:3]))]


def figures_of(real: np.ndarray, windows: np.ndarray) -> dict[str, float]:
    """How near windows are to real ones: distances of tiles and of neighbours, precision and recall of tiles."""
    tiles, others = (part.reshape(-1, part.shape[-1]) for part in (real, windows))
    pairs = neighbours_of(real), neighbours_of(windows)
    precision, recall = precision_recall(tiles, others)
    return {
        "FD of tiles": frechet_distance_of_features(tiles, others),
        "FD of neighbours": frechet_distance_of_features(*pairs),
        "KD of tiles": kernel_distance(tiles, others)[0],
        "KD of neighbours": kernel_distance(*(part[::KERNEL_STRIDE] for part in pairs))[0],
        "precision": precision,
        "recall": recall,
    }


def by_heart(windows: np.ndarray, training: np.ndarray) -> float:
    """The mean distance per number of windows, turned and mirrored in the best way, to the nearest training window."""
    known = training.reshape(len(training), -1)
    ways = [np.rot90(one, way, (1, 2)) for one in (windows, windows[:, :, ::-1]) for way in range(4)]
    found = [nearest(np.ascontiguousarray(way).reshape(len(way), -1), known)[1] for way in ways]
    return float(np.min(found, axis=0).mean() / known.shape[1] ** 0.5)
