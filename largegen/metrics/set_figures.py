"""Figures of two sets in one network's space, each with what says how far to trust it."""

import numpy as np
from tqdm import tqdm

from largegen.metrics.catalogue import CATALOGUE
from largegen.metrics.comparison import SetPair
from largegen.metrics.distances.frechet import frechet_distance, frechet_distance_of_features
from largegen.metrics.distances.kid import kernel_distance
from largegen.metrics.distances.precision_recall import precision_recall
from largegen.metrics.distances.uncertainty import Distance, bootstrap_interval, distance_at_infinity, real_floor
from largegen.metrics.request import EvaluationConfig, Metric
from largegen.metrics.results import Figure, NotApplicable
from largegen.metrics.sets.statistics import Statistics

MIN_FD_SAMPLES = 10_000  # under it a Fréchet distance is mostly bias; clean-fid and both papers use as many or more
MIN_KERNEL_SAMPLES = 4  # samples of a side that kernel distance, and precision and recall by three neighbours, take


def measure(metric: Metric, pair: SetPair, config: EvaluationConfig, progress: bool = False) -> list[Figure]:
    """Compute a metric of both sets in a network's space; only in Inception's and CLIP's is a distance called FID."""
    network, real, fake = pair.network, pair.real, pair.fake
    published = network.name in ("inception", "clip") and network.standard
    space = "" if published else f", {network.title}"
    if metric.kind == "kid":
        return [kernel_figure(metric.name, f"KID{space}" if published else f"Kernel distance{space}", real, fake)]
    if metric.kind == "precision-recall":
        return neighbour_figures(metric.name, space, real, fake)
    name = CATALOGUE[metric.kind].title if published else f"Fréchet distance{space}"
    return [frechet_figure(metric.name, name, real, fake, config.replicates, config.crops.seed % 2**64, progress)]


def frechet_figure(
    metric: str,
    name: str,
    real: Statistics,
    fake: Statistics,
    replicates: int,
    seed: int,
    progress: bool = False,
) -> Figure:
    """Compute the Fréchet distance of all samples; interval, floor and extrapolation from the features that were kept.

    Args:
        metric: As `metrics` names it.
        name: For people.
        real: Statistics of the real set.
        fake: And of the generated one.
        replicates: Of the bootstrap; 0 for no interval. With the 2048 numbers of Inception each takes seconds.
        seed: Of all draws.
        progress: Whether to show a bar.
    """
    value = frechet_distance(real.gaussian, fake.gaussian)
    interval = None
    if replicates:
        with tqdm(total=replicates + 1, desc=f"Interval of {name}", disable=None if progress else True) as bar:

            def distance(a: np.ndarray, b: np.ndarray) -> float:
                found = frechet_distance_of_features(a, b)
                bar.update()
                return found

            low, high = bootstrap_interval(distance, real.features, fake.features, replicates=replicates, seed=seed)
        half = (high - low) / 2  # as wide as that of the kept features, around the value of all
        interval = (max(0.0, value - half), value + half)
    few = min(real.gaussian.count, fake.gaussian.count)
    return Figure(
        metric=metric,
        name=name,
        value=value,
        better="lower",
        real_count=real.gaussian.count,
        fake_count=fake.gaussian.count,
        interval=interval,
        infinity=distance_at_infinity(real.features, fake.features, seed=seed),
        floor=_floor(frechet_distance_of_features, real.features, 2, seed),
        note=f"{few} samples in {len(real.gaussian.mean)} dimensions" if few < MIN_FD_SAMPLES else "",
    )


def kernel_figure(metric: str, name: str, real: Statistics, fake: Statistics, seed: int = 0) -> Figure:
    """Compute the kernel distance (KID) of the kept features."""
    _check_count(real, fake)
    value, error = kernel_distance(real.features, fake.features, seed=seed)

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return kernel_distance(a, b, seed=seed)[0]

    return Figure(
        metric=metric,
        name=name,
        value=value,
        better="lower",
        real_count=len(real.features),
        fake_count=len(fake.features),
        standard_error=error,
        floor=_floor(distance, real.features, MIN_KERNEL_SAMPLES, seed),
    )


def neighbour_figures(metric: str, name: str, real: Statistics, fake: Statistics) -> list[Figure]:
    """Compute precision and recall of the kept features."""
    _check_count(real, fake)
    counts = len(real.features), len(fake.features)
    values = precision_recall(real.features, fake.features)
    return [
        Figure(metric, f"{what}{name}", value, "higher", *counts)
        for what, value in zip(("Precision", "Recall"), values, strict=True)
    ]


def _check_count(real: Statistics, fake: Statistics) -> None:
    few = min(len(real.features), len(fake.features))
    if few < MIN_KERNEL_SAMPLES:
        raise NotApplicable(f"there are {few} samples on one side, and this metric takes {MIN_KERNEL_SAMPLES} or more")


def _floor(distance: Distance, real: np.ndarray, least: int, seed: int) -> float | None:
    """Compute the distance of two halves of the real features (N, D); None where a half has under `least` samples."""
    return real_floor(distance, real, seed) if len(real) >= 2 * least else None


def sample_warnings(level: str, space: str, dim: int, real_count: int, fake_count: int) -> list[str]:
    """Say what to know of a Fréchet distance of so few samples in so many dimensions; level: the resolution's name."""
    few = min(real_count, fake_count)
    if few <= dim:
        return [
            f"{level}, {space}: {few} samples are no more than the {dim} dimensions; the distance is biased upwards,"
            " and says little but in comparison with others of as many samples"
        ]
    if few < MIN_FD_SAMPLES:
        return [f"{level}, {space}: {few} samples; under {MIN_FD_SAMPLES} a Fréchet distance is biased upwards"]
    return []
