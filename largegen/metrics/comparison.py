"""Both sets of an evaluation in the space of a network, computed once for all metrics that look at it."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from largegen.errors import HubError, InputError, ModelError
from largegen.metrics.features.extract import extract
from largegen.metrics.features.networks import FeatureNetwork, load_network
from largegen.metrics.request import CropSettings, EvaluationConfig
from largegen.metrics.results import IncompatibleStatistics, NotApplicable
from largegen.metrics.sets.crops import WHOLE_PX, Crops, Samples, whole_images
from largegen.metrics.sets.images import ResolutionGroup, SetImage, are_patches
from largegen.metrics.sets.sets import Sets
from largegen.metrics.sets.statistics import Statistics, check_same_key
from largegen.runtime.distributed import main_first, run_on_main

if TYPE_CHECKING:
    from accelerate import PartialState


MAX_SIDE_RATIO = 1.1  # whole images whose shorter sides differ by no more than this factor are of one size

# What is compared, with the side in px that its images have before a network sees them; no real samples where the
# statistics are from a file.
BothSamples = tuple[int, Samples | None, Samples]


class SetPair(NamedTuple):
    """Both sets in a network's space."""

    network: FeatureNetwork
    real: Statistics
    fake: Statistics
    real_samples: Samples | None  # None where the statistics are from a file
    fake_samples: Samples
    real_kept: np.ndarray | None  # numbers of the samples whose features were kept
    fake_kept: np.ndarray


class Comparison:
    """Networks and statistics, each computed when it is first asked for."""

    def __init__(self, sets: Sets, config: EvaluationConfig, processes: "PartialState", progress: bool = False):
        self.sets, self.config, self.processes, self.progress = sets, config, processes, progress
        self.done: dict[tuple[str, str], SetPair] = {}  # by group and network
        self._networks: dict[str, FeatureNetwork | HubError | ModelError] = {}
        self._samples: dict[tuple[str, bool], BothSamples] = {}  # by group, and whether they are whole images

    def at(self, group: ResolutionGroup, network: str) -> SetPair:
        """Compute both sets of a group in the space of `inception`, `clip` (whole images), `vgg16` or `encoder:NAME`.

        Raises NotApplicable where the sets do not allow it, Unlike where statistics of another kind were given,
        HubError and ModelError where there is no such network.
        """
        place = (group.name, network)
        if place not in self.done:
            self.done[place] = self._extract(group, network)
        return self.done[place]

    def check(self, group: ResolutionGroup, network: str) -> None:
        """Raise what `at` would, before any image goes through a network."""
        if (group.name, network) not in self.done:
            self._prepared(group, network)

    def _network(self, name: str) -> FeatureNetwork:
        """Load a network once; raise its error again where it could not be loaded."""
        if name not in self._networks:
            try:
                weights = self.config.weights.get(name.partition(":")[0])
                load = partial(load_network, name, weights, self.config.torch_device)
                self._networks[name] = main_first(self.processes, load)
            except (HubError, ModelError) as error:
                self._networks[name] = error
        network = self._networks[name]
        if isinstance(network, Exception):
            raise network
        return network

    def _prepared(self, group: ResolutionGroup, name: str) -> tuple[FeatureNetwork, BothSamples, Statistics | None]:
        """Get a network, what is compared in its space, and the real set's statistics where they are from a file."""
        whole = name == "clip"
        if (group.name, whole) not in self._samples:  # before the network, which may have to be downloaded
            self._samples[group.name, whole] = self._whole(group) if whole else self._crops_of(group)
        samples = side, real, fake = self._samples[group.name, whole]
        for what, of_it in (("real", real), ("generated", fake)):
            if of_it is not None and len(of_it) < 2:
                raise NotApplicable(f"there is one {what} crop, and a distribution takes two or more")
        network = self._network(name)
        return network, samples, self._saved(_key(network, side, group)) if real is None else None

    def _extract(self, group: ResolutionGroup, name: str) -> SetPair:
        network, (side, real_samples, fake_samples), saved = self._prepared(group, name)
        config, sets = self.config, self.sets
        take = partial(
            extract,
            network,
            key=_key(network, side, group),
            processes=self.processes,
            batch_size=config.batch_size,
            workers=config.workers,
            seed=config.crops.seed % 2**64,
            progress=self.progress,
        )
        fake, fake_kept = take(fake_samples, source={"paths": sets.fake_paths, **asdict(config.crops)})
        if saved:
            return SetPair(network, saved, fake, None, fake_samples, None, fake_kept)
        assert real_samples is not None, "either samples or saved statistics"
        real, real_kept = take(real_samples, source={"paths": sets.real_paths, **asdict(config.crops)})
        return SetPair(network, real, fake, real_samples, fake_samples, real_kept, fake_kept)

    def _saved(self, key: dict[str, Any]) -> Statistics:
        """Find saved statistics of the same network and, if there are any, of the same resolution and side."""
        found = [saved for saved in self.sets.statistics if saved.key["network"] == key["network"]]
        if not found:
            raise NotApplicable(f"{self.sets.real_paths[0]} holds no statistics of {key['network']}")
        closest = max(found, key=lambda saved: sum(saved.key.get(name) == value for name, value in key.items()))
        try:
            check_same_key(closest.key, key)
        except InputError as error:
            raise IncompatibleStatistics(f"{self.sets.real_paths[0]}: {error}") from error
        return closest

    def _crops_of(self, group: ResolutionGroup) -> BothSamples:
        settings = self.config.crops
        real = self._crops_in(group.real, settings) if group.real else None
        return settings.size_px, real, self._crops_in(group.fake, settings)

    def _crops_in(self, images: Sequence[SetImage], settings: CropSettings) -> Crops:
        """Take crops in places that the main process finds for all, so that thumbnails are read once."""
        draw = partial(Crops, images, settings, self.sets.failed)
        return draw(run_on_main(self.processes, lambda: draw().places))

    def _whole(self, group: ResolutionGroup) -> BothSamples:
        """Take whole generated images, and whole real ones of their size or, of larger ones, squares side by side."""
        sides = [_side(image) for image in group.fake]
        if are_patches(group.fake, self.config.crops.size_px):
            raise NotApplicable("the generated images are no larger than a crop")
        if len(sides) < 2:
            raise NotApplicable("there is one generated image, and a distribution of whole ones takes two or more")
        side = min(sides)
        if max(sides) > MAX_SIDE_RATIO * side:
            raise NotApplicable(f"the generated images have {side} to {max(sides)} px; give those of one size")
        fake = whole_images(group.fake, self.sets.failed)
        if not group.real:
            return side, None, fake
        if max(map(_side, group.real)) <= MAX_SIDE_RATIO * side:
            return side, whole_images(group.real, self.sets.failed), fake
        shrink = max(1.0, side / WHOLE_PX)  # as whole_images does
        shrunk = [
            replace(p, downsample=p.downsample * shrink, width=int(p.width / shrink), height=int(p.height / shrink))
            for p in group.real
        ]
        settings = replace(self.config.crops, size_px=int(side / shrink), placement="grid")
        squares = self._crops_in(shrunk, settings)
        if len(squares) < 2:
            raise NotApplicable(f"the real images hold {len(squares)} square of {side} px with tissue; give more")
        return side, squares, fake


def _key(network: FeatureNetwork, side_px: int, group: ResolutionGroup) -> dict[str, Any]:
    """Return what two sets must have in common to be compared."""
    tissue = any(image.tissue for image in group.fake)
    return {**network.key, "side_px": side_px, "level": group.name, "tissue": tissue}


def _side(image: SetImage) -> int:
    return min(image.width, image.height)
