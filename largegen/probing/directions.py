"""Directions between labelled groups of embeddings, along which `largegen edit --move` changes images."""

import numpy as np

from largegen.probing.classifiers import fit_linear
from largegen.probing.samples import Bags, Labelled


def directions_between(labelled: Labelled, bags: Bags, unit: str) -> dict[str, np.ndarray]:
    """Find the way from all other classes to each class, among what is not in test.

    Args:
        labelled: The slides and their labels.
        bags: Their embeddings.
        unit: `slide`, where each counts as the mean of its tiles, or `tile`.

    Returns:
        Directions (D,) float32 by name: `<class>`, from the mean of the others to its own; and `<class>.linear`, along
        the weights of a linear classifier on standardised features, as far as the means are apart to it. 1 goes all
        the way.
    """
    seen = np.flatnonzero(~labelled.test) if labelled.test is not None else np.arange(len(bags.bags))
    if unit == "tile":
        rows = np.concatenate([bags.bags[n] for n in seen])
        labels = np.repeat(labelled.labels[seen], [len(bags.bags[n]) for n in seen])
    else:
        rows, labels = bags.means[seen], labelled.labels[seen]
    count = len(labelled.names)
    weights = fit_linear(rows, labels, count).weights
    found = {}
    for k, name in enumerate(labelled.names):
        apart = rows[labels == k].mean(0) - rows[labels != k].mean(0)
        slope = weights[k] - np.delete(weights, k, 0).mean(0)
        way = slope * rows.var(0)  # the slope where all numbers vary alike: what hardly varies hardly moves
        found[name] = apart.astype(np.float32)
        found[f"{name}.linear"] = (way * (slope @ apart) / (slope @ way)).astype(np.float32)
    return found
