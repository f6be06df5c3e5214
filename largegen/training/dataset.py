"""What a denoiser is trained on: latents and conditions of the regions of a cohort."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from largegen.errors import InputError
from largegen.models.denoiser import TIMESTEPS
from largegen.training.latents import ORIENTATIONS
from largegen.training.regions import EmbeddingGrids, TrainingRegions, split
from largegen.training.sampler import orient, sample_rng

CONDITION_DROPOUT = 0.1  # [L] and [Z]: part of the samples that see the null condition
GUIDANCE_STREAM = 2**62  # samples from here on: random numbers of guidance scales

Condition = Sequence[Tensor]  # what a conditioner takes, see models/conditioners.py


class LatentRegions(Dataset):
    """Latents and conditions of the regions of a cohort; sample n is drawn from its number alone.

    sources: regions of one level of one file each, with their latent caches (latents.cache_latents); arrange: a
    conditioner's. The level is drawn uniformly, so that scarce levels are seen as often as plentiful ones [Z], then one
    of its regions. A sample is the `latents` (C, h, w) and the condition (`condition.0`, ...) of a region laid one of
    the cached ways, a `timestep`, the `noise`, and whether to `drop` the condition. Regions that touch a validation
    block, a fraction `held_out` of all blocks, are left out. Of several levels the finest gets the part `finest` of the
    samples, where that is given. Raises InputError for a level without training regions.
    """

    def __init__(
        self,
        sources: Sequence[tuple[TrainingRegions, Path]],
        levels: int,
        arrange: Callable[[Tensor, int], Condition],
        held_out: float,
        seed: int,
        finest: float | None = None,
    ):
        self.finest = finest
        self.sources, self.arrange, self.seed = sources, arrange, seed
        grids = {regions.file.path: EmbeddingGrids(regions.file) for regions, _ in sources}
        self.grids = [grids[regions.file.path] for regions, _ in sources]
        self._open: dict[int, np.ndarray] = {}
        self.training: list[np.ndarray] = []  # of each level: (N, 2), source and region
        self.validation: list[np.ndarray] = []
        for level in range(levels):
            training: list[tuple[int, int]] = []
            validation: list[tuple[int, int]] = []
            for source, (regions, _) in enumerate(sources):
                if regions.level == level:
                    kinds = split(regions, held_out, seed)
                    for found, numbers in zip((training, validation), kinds, strict=True):
                        found += [(source, n) for n in numbers.tolist()]
            if not training:
                raise InputError(f"no region of level {level} to train on: the slides are too small, or held out")
            self.training.append(np.array(training))
            self.validation.append(np.array(validation, np.int64).reshape(-1, 2))

    def __getitem__(self, sample: int) -> dict[str, Tensor]:
        rng = sample_rng(self.seed, sample)
        regions = self.training[self._level(rng)]
        source, region = regions[rng.integers(len(regions))]
        latents, condition = self.read(source, region, rng)
        return {
            "latents": latents,
            **{f"condition.{i}": part for i, part in enumerate(condition)},
            "timestep": torch.tensor(int(rng.integers(TIMESTEPS))),
            "drop": torch.tensor(bool(rng.random() < CONDITION_DROPOUT)),
            "noise": torch.from_numpy(rng.standard_normal(latents.shape, np.float32)),
        }

    def _level(self, rng: np.random.Generator) -> int:
        levels = len(self.training)
        if self.finest is None or levels == 1:
            return int(rng.integers(levels))
        return 0 if rng.random() < self.finest else int(rng.integers(1, levels))

    def read(self, source: int, n: int, rng: np.random.Generator | None = None) -> tuple[Tensor, Condition]:
        """Read latents (C, h, w) float32 and condition of one region: laid at random, or as it is without `rng`."""
        regions, path = self.sources[source]
        if source not in self._open:
            self._open[source] = np.load(path, mmap_mode="r")
        cache = self._open[source]
        way = int(rng.integers(cache.shape[1])) if rng else 0
        latents = torch.from_numpy(cache[n, way].astype(np.float32))
        grid = orient(self.grids[source].under(regions, n), ORIENTATIONS[cache.shape[1]][way])
        condition = self.arrange(torch.from_numpy(grid.copy())[None], regions.level)
        return latents, [part[0] for part in condition]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # a worker maps the files itself; pickled, they would be copied

    def batch(self, regions: np.ndarray) -> tuple[Tensor, Condition]:
        """Read latents (N, C, h, w) and condition of regions (N, 2) as they are, of any levels."""
        latents, conditions = zip(*(self.read(*region) for region in regions.tolist()), strict=True)
        return torch.stack(latents), [torch.stack(parts) for parts in zip(*conditions, strict=True)]


class GuidedRegions(LatentRegions):
    """The same, and where in a student's range the guidance scale of a sample lies: its `fraction`, 0 to 1."""

    def __getitem__(self, sample: int) -> dict[str, Tensor]:
        fraction = sample_rng(self.seed, GUIDANCE_STREAM + sample).random()
        return {**super().__getitem__(sample), "fraction": torch.tensor(fraction)}
