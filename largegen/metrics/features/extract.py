"""Crops through a network: the statistics of a set, in memory that does not grow with it."""

from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm import tqdm

from largegen.errors import InputError
from largegen.metrics.distances.frechet import Moments
from largegen.metrics.features.networks import FeatureNetwork
from largegen.metrics.sets.crops import Samples
from largegen.metrics.sets.images import Failed
from largegen.metrics.sets.statistics import Statistics
from largegen.runtime.distributed import gather

if TYPE_CHECKING:
    from accelerate import PartialState


MAX_KEPT_FEATURES = 10_000  # features kept one by one, for what mean and covariance cannot tell; at 2048 numbers 82 MB
BATCHES_PER_ROUND = 16  # batches that a process takes before it asks the others whether one has failed


class _Share(NamedTuple):
    """What one process found."""

    moments: Moments
    numbers: list[np.ndarray]  # of the samples whose features are kept, batch by batch
    features: list[np.ndarray]  # and these, (n, D) float32
    failed: Failed | None  # its notes of images that cannot be read


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
    """Compute the statistics of a set in a network's space, in memory that does not grow with the set.

    Args:
        network: It gives the features.
        samples: Crops or whole images.
        key: What two sets must have in common, beside the network.
        source: Where the samples are from: "paths" and JSON values.
        processes: They share the samples; all get the same result, and the same notes in `samples.failed`.
        batch_size: Samples through the network at once.
        workers: Threads that read them.
        seed: Draws the samples, up to `MAX_KEPT_FEATURES`, whose features are kept one by one.
        progress: Whether to show a bar.

    Returns:
        The statistics, and the numbers (M,) of the samples whose features were kept.

    Raises:
        InputError: Fewer than two samples, or features that are not finite.
    """
    of = processes.num_processes
    mask = np.zeros(len(samples), bool)
    mask[np.random.default_rng(seed).permutation(len(samples))[:MAX_KEPT_FEATURES]] = True
    own = _Share(Moments(network.dim), [], [], samples.failed)
    batches = samples.batches(batch_size, workers, (processes.process_index, of), network.prepare)
    shown = progress and processes.is_main_process
    bar = tqdm(total=len(samples), desc=network.title, unit="crop", disable=None if shown else True)

    def advance() -> None:
        for indices, batch in islice(batches, BATCHES_PER_ROUND):
            found = network.features(batch)
            own.moments.add(found)
            keep = mask[indices]
            own.numbers.append(indices[keep])
            own.features.append(found[keep].astype(np.float32))
            bar.update(min(of * len(indices), len(samples) - bar.n))

    with bar, closing(batches):
        for _ in range(0, len(samples), BATCHES_PER_ROUND * of * batch_size):
            gather(processes, advance)
    shares = gather(processes, lambda: own)
    if samples.failed is not None:  # in an order that does not tell who came upon them
        samples.failed[:] = sorted(dict(note for share in shares for note in share.failed or ()).items())
    moments = shares[0].moments
    for share in shares[1:]:
        moments.merge(share.moments)
    if moments.count < 2:
        raise InputError(f"{', '.join(source['paths'])}: {moments.count} crop; statistics need at least two")
    numbers = np.concatenate([part for share in shares for part in share.numbers])
    features = np.concatenate([part for share in shares for part in share.features])
    order = numbers.argsort()
    source = {**source, "count": moments.count}
    return Statistics(moments.gaussian(), features[order], {**network.key, **key}, source), numbers[order]
