"""Probe features: train classifiers on some patients, and measure them on the others."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from largegen.errors import InputError
from largegen.probing import classifiers
from largegen.probing.figures import RESAMPLES, Figure, figures
from largegen.probing.options import ProbeOptions
from largegen.probing.samples import Bags, Labelled

log = logging.getLogger(__name__)

OF_VECTORS = {"linear": classifiers.linear, "knn": classifiers.nearest}  # on one vector each
CLASSIFIERS = (*OF_VECTORS, "mil")
TILE_RESAMPLES = 200  # of the bootstrap over many tiles


@dataclass(frozen=True)
class Probed:
    """What a classifier reached on a set of features."""

    features: str  # name of the set
    dim: int
    classifier: str
    figures: dict[str, Figure]


def probe(labelled: Labelled, sets: Sequence[Bags], options: ProbeOptions) -> Iterator[Probed]:
    """Train and measure every classifier on every set of features, all on the same parts.

    The predictions of all parts are taken together; each is of a classifier that saw nothing of the same patient.

    Yields:
        A line of the table at a time.

    Raises:
        InputError: For a class that has too few patients.
    """
    options.check()
    if options.unit == "slide":
        from largegen.probing.attention import attention  # PyTorch takes longer to import than tiles to classify
    parts, classes = list(_parts(labelled, options)), len(labelled.names)
    for bags in sets:
        rows, owner = bags.means, np.arange(len(bags.bags))
        if options.unit == "tile":
            rows, owner = np.concatenate(bags.bags), np.repeat(owner, [len(bag) for bag in bags.bags])
        labels, patients = labelled.labels[owner], labelled.patients[owner]
        resamples = RESAMPLES if options.unit == "slide" else TILE_RESAMPLES
        for name in CLASSIFIERS if options.unit == "slide" else OF_VECTORS:
            predicted, tested = [], []
            for train, test in parts:
                if name in OF_VECTORS:
                    own, other = (np.flatnonzero(np.isin(owner, part)) for part in (train, test))
                    predicted.append(OF_VECTORS[name](rows[own], labels[own], rows[other], classes))
                    tested.append(other)
                else:
                    seen, unseen = ([bags.bags[n] for n in part] for part in (train, test))
                    how = {"epochs": options.epochs, "seed": options.seed}
                    predicted.append(attention(seen, labelled.labels[train], unseen, classes, **how))
                    tested.append(test)
            order = np.concatenate(tested)
            found = figures(np.concatenate(predicted), labels[order], patients[order], options.seed, resamples)
            yield Probed(bags.name, rows.shape[1], name, found)


def require_extra() -> None:
    """Raise InputError where scikit-learn is not installed."""
    if not find_spec("sklearn"):
        raise InputError("probing needs scikit-learn: pip install 'largegen[probe]'")


def _parts(labelled: Labelled, options: ProbeOptions) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Divide the slides: (train, test) of each part, as numbers of slides.

    Raises:
        InputError: For a class with one patient, or none to train on.
    """
    if labelled.test is not None:
        train, test = np.flatnonzero(~labelled.test), np.flatnonzero(labelled.test)
        missing = set(range(len(labelled.names))) - set(labelled.labels[train])
        if missing:
            raise InputError(f"class {labelled.names[min(missing)]}: no slide of it is in train")
        yield train, test
        return
    from sklearn.model_selection import StratifiedGroupKFold

    owners = [len(np.unique(labelled.patients[labelled.labels == k])) for k in range(len(labelled.names))]
    fewest = int(np.argmin(owners))
    if owners[fewest] < 2:
        few = [name for name, count in zip(labelled.names, owners, strict=True) if count < 2]
        raise InputError(f"{len(few)} classes have one patient only, {few[0]} first: cross-validation needs two")
    folds = min(options.folds, owners[fewest])
    if folds < options.folds:
        log.warning(
            "%d parts instead of %d: class %s has %d patients", folds, options.folds, labelled.names[fewest], folds
        )
    divide = StratifiedGroupKFold(folds, shuffle=True, random_state=options.seed % 2**32)
    for train, test in divide.split(labelled.labels, labelled.labels, labelled.patients):
        if set(labelled.labels[train]) != set(range(len(labelled.names))):
            raise InputError(f"`folds` {folds}: a part leaves a class without slides to train on; use fewer")
        yield train, test
