"""Crops through a network: the statistics of a set, in memory that does not grow with it."""

from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from largegen.distributed import gathered
from largegen.errors import InputError
from largegen.metrics.crops import Samples
from largegen.metrics.gaussian import Moments
from largegen.metrics.networks import FeatureNetwork
from largegen.metrics.statistics_file import Statistics

if TYPE_CHECKING:
    from accelerate import PartialState

KEPT = 10_000  # features kept one by one, for what mean and covariance cannot tell; at 2048 numbers 82 MB


def extract(
    network: FeatureNetwork,
    samples: Samples,
    key: dict[str, Any],
    source: dict[str, Any],
    *,
    processes: "PartialState",
    batch_size: int,
    workers: int,
    seed: int = 0,
    progress: bool = False,
) -> tuple[Statistics, np.ndarray]:
    """The statistics of a set in a network's space, and the numbers (M,) of the samples whose features were kept.

    Several processes share the samples, and all get the same result. key: what two sets must have in common, beside the
    network; source: where the samples are from. Up to KEPT features are kept, of samples drawn by `seed`. Raises
    InputError for fewer than two samples and for features that are not finite.
    """
    chosen = np.random.default_rng(seed).permutation(len(samples))[:KEPT]
    mask = np.zeros(len(samples), bool)
    mask[chosen] = True

    def own_share() -> tuple[Moments, list[np.ndarray], list[np.ndarray]]:
        moments, numbers, features = Moments(network.width), [], []
        bar = tqdm(total=len(samples), desc=network.title, unit="crop", disable=None if progress else True)
        share = (processes.process_index, processes.num_processes)
        with bar:
            for indices, batch in samples.batches(batch_size, workers=workers, share=share, prepare=network.prepare):
                found = network.features(batch)
                moments.add(found)
                keep = mask[indices]
                numbers.append(np.asarray(indices)[keep])
                features.append(found[keep].astype(np.float32))
                bar.update(len(indices) * processes.num_processes)
        return moments, numbers, features

    shares = gathered(processes, own_share)
    moments = shares[0][0]
    for other, _, _ in shares[1:]:
        moments.merge(other)
    if moments.count < 2:
        raise InputError(f"{', '.join(source['paths'])}: {moments.count} crop; statistics need at least two")
    numbers = np.concatenate([n for _, found, _ in shares for n in found])
    features = np.concatenate([f for _, _, found in shares for f in found])
    order = numbers.argsort()
    source = {**source, "count": moments.count}
    return Statistics(moments.gaussian(), features[order], {**network.key, **key}, source), numbers[order]
