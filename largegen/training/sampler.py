"""The random numbers of training samples, and the order in which processes draw them.

Sample n is the same whatever process or worker draws it, and whenever: a resumed run continues with exactly the samples
that the uninterrupted one would have seen, and two processes see what one would.
"""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


def sample_rng(seed: int, sample: int) -> np.random.Generator:
    """Make the random numbers of training sample `sample` >= 0: a function of the two numbers only."""
    return np.random.Generator(np.random.Philox(key=np.array([seed % 2**64, sample], np.uint64)))


def orient(image: np.ndarray, k: int) -> np.ndarray:
    """Apply one of the 8 flips and quarter turns to a (H, W, ...) array: k % 4 quarter turns, mirrored where k >= 4."""
    image = np.rot90(image, k % 4)
    return image[:, ::-1] if k >= 4 else image


class StepSampler(Sampler[int]):
    """The sample numbers of one process, from `start_step` on: step s holds [s * batch, (s + 1) * batch).

    Each step's samples are dealt to the processes in contiguous, equal runs; a process's run is then cut into
    micro-batches by its DataLoader. `batch` is the whole step's, over all processes.
    """

    def __init__(self, batch: int, start_step: int, stop_step: int, rank: int = 0, world: int = 1):
        self.batch, self.steps = batch, range(start_step, stop_step)
        self.share = range(rank * batch // world, (rank + 1) * batch // world)

    def __iter__(self) -> Iterator[int]:
        for step in self.steps:
            yield from (step * self.batch + i for i in self.share)

    def __len__(self) -> int:
        return len(self.steps) * len(self.share)
