"""How good predictions are, with intervals over patients."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95  # of an interval


@dataclass(frozen=True)
class Figure:
    """A figure and its interval."""

    value: float
    low: float
    high: float


def figures(
    probabilities: np.ndarray, labels: np.ndarray, patients: np.ndarray, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Figure]:
    """Measure AUC (of several classes the mean over one against the rest), accuracy and balanced accuracy.

    Args:
        probabilities: (N, classes) of what was predicted.
        labels: (N,) int, the truth.
        patients: (N,) int. The intervals (95 %) are of a bootstrap that draws patients, with all that is of them.
        seed: Of the bootstrap.
        resamples: Of the bootstrap. Those that lack a class are left out of its AUC.

    Returns:
        The figures by name: `auc`, `accuracy`, `balanced_accuracy`.
    """
    right = probabilities.argmax(1) == labels
    owners, owner = np.unique(patients, return_inverse=True)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(owners), np.full(len(owners), 1 / len(owners)), resamples)
    weights = np.concatenate([np.ones((1, len(labels))), draws[:, owner]])  # first all as they are
    return {
        "auc": _figure(_auc(probabilities, labels), weights),
        "accuracy": _figure(lambda w: float(w @ right / w.sum()), weights),
        "balanced_accuracy": _figure(_balanced(right, labels), weights),
    }


def _figure(measure: Callable[[np.ndarray], float], weights: np.ndarray) -> Figure:
    values = np.array([measure(w) for w in weights])
    low, high = np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Figure(float(values[0]), float(low), float(high))


def _balanced(right: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], float]:
    """Give the mean over the classes that are there of the share that is right."""

    def measure(weight: np.ndarray) -> float:
        count = np.bincount(labels, weight)
        held = count > 0
        return float((np.bincount(labels, weight * right)[held] / count[held]).mean())

    return measure


def _auc(probabilities: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], float]:
    """Give the area under the ROC curve for weighted samples: the mean over the classes against their rest.

    It is the chance that a sample of the class has the higher probability than one of the rest; ties count half.
    """
    classes = [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    sorted_by = []
    for k in classes:
        values, rank = np.unique(probabilities[:, k], return_inverse=True)
        sorted_by.append((labels == k, rank, len(values)))

    def measure(weight: np.ndarray) -> float:
        areas = []
        for own, rank, count in sorted_by:
            positive = np.bincount(rank, weight * own, count)
            negative = np.bincount(rank, weight * ~own, count)
            pairs = positive.sum() * negative.sum()
            if pairs:
                areas.append(positive @ (np.cumsum(negative) - negative / 2) / pairs)
        return float(np.mean(areas)) if areas else float("nan")

    return measure
