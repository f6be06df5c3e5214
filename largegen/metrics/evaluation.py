"""From two sets of images to all figures that they and the weights at hand allow, and what spoils them."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from largegen.errors import HubError, InputError, ModelError
from largegen.metrics import image_figures, set_figures
from largegen.metrics.catalogue import CATALOGUE
from largegen.metrics.comparison import Comparison
from largegen.metrics.request import STARTER, VGG, EvaluationConfig, Metric, parse_metric
from largegen.metrics.results import Evaluation, Figure, IncompatibleStatistics, LeftOut, LevelFigures, NotApplicable
from largegen.metrics.set_figures import sample_warnings
from largegen.metrics.sets.crops import Crops
from largegen.metrics.sets.images import ResolutionGroup, SetImage, are_patches
from largegen.metrics.sets.sets import Sets
from largegen.runtime.distributed import run_on_main
from largegen.version import __version__

if TYPE_CHECKING:
    from accelerate import PartialState

Unavailable = (NotApplicable, HubError, ModelError)  # of a metric: its inputs or its weights are not at hand


def evaluate(
    sets: Sets, config: EvaluationConfig, processes: "PartialState", progress: bool = False
) -> tuple[Evaluation, Comparison]:
    """Compute all figures of two sets.

    Args:
        sets: What is compared with what.
        config: Which metrics, of which crops.
        processes: They share the crops; all get the same figures.
        progress: Whether to show progress bars.

    Returns:
        The figures, and both sets in the space of each network, for the images of a report.

    Raises:
        InputError: A metric that was asked for cannot be had, or none at all.
        SlideError: An image is damaged, and such are not to be left out.
    """
    comparison = Comparison(sets, config, processes, progress)
    for metric in config.metrics:
        _require(metric, comparison)
    levels, left_out = [], _LeftOut(several=len(sets.groups) > 1)
    for group in sets.groups:
        figures: list[Figure] = []
        for metric in _metrics_of(group, config):
            try:
                _check(metric, group, comparison)
                figures += _measure(metric, group, comparison)
            except Unavailable as error:
                if config.names(metric) and not isinstance(error, NotApplicable):
                    raise
                left_out.add(metric, group, error)
        if figures:
            levels.append(LevelFigures(group.name, tuple(figures)))
    if sets.failed is not None:  # what the main process alone came upon, among images one by one
        sets.failed[:] = run_on_main(processes, lambda: sets.failed or [])
    found = {figure.metric for level in levels for figure in level.figures}
    left_out.check(found, config, computed=bool(comparison.done))
    evaluation = Evaluation(
        real=describe_set("real", comparison),
        fake=describe_set("fake", comparison),
        levels=tuple(levels),
        left_out=tuple(LeftOut(", ".join(names), why) for why, names in left_out.reasons.items()),
        warnings=tuple(warnings_of(comparison)),
        settings=_settings(config) | {"features": [pair.fake.key for pair in comparison.done.values()]},
    )
    return evaluation, comparison


def plan(sets: Sets, config: EvaluationConfig) -> dict[str, Any]:
    """Say what `evaluate` would do: images, crops and metrics at each resolution."""

    def count(images: Sequence[SetImage]) -> dict[str, int]:
        return {"pictures": len(images), "crops": len(Crops(images, config.crops, sets.failed))}

    levels = [
        {
            "level": group.name,
            "real": count(group.real) if group.real else "saved statistics",
            "fake": count(group.fake),
            "metrics": [metric.name for metric in _metrics_of(group, config)],
        }
        for group in sets.groups
    ]
    return {"levels": levels, "settings": _settings(config)}


def _metrics_of(group: ResolutionGroup, config: EvaluationConfig) -> list[Metric]:
    """List the metrics asked for, or all that there are for patches or for large images."""
    if config.metrics:
        return list(config.metrics)
    made_with = group.fake[0].provenance.get("encoder")
    encoders = [config.encoder] if config.encoder else dict.fromkeys(filter(None, (STARTER, made_with)))
    fid = "patch-fid" if are_patches(group.fake, config.crops.size_px) else "crop-fid"
    names = [fid, "kid", "precision-recall", "clip-fid"]
    names += [f"{kind}:{encoder}" for encoder in encoders for kind in ("fd", "kid", "precision-recall")]
    names += [f"fd:{VGG}", *(name for name, kind in CATALOGUE.items() if not kind.spaces)]
    return [parse_metric(name) for name in names]


def _settings(config: EvaluationConfig) -> dict[str, Any]:
    settings = {**asdict(config.crops), "encoder": config.encoder or STARTER, "replicates": config.replicates}
    return {**settings, "device": str(config.torch_device), "largegen": __version__}


def _require(metric: Metric, comparison: Comparison) -> None:
    """Raise InputError, before the work, for a metric that can be had at no resolution."""
    reasons = []
    for group in comparison.sets.groups:
        try:
            return _check(metric, group, comparison)
        except Unavailable as error:
            reasons.append(error)
    raise InputError(f"`metrics` {metric.name}: {reasons[0]}") from reasons[0]


def _check(metric: Metric, group: ResolutionGroup, comparison: Comparison) -> None:
    """Raise one of `Unavailable` where the metric is known beforehand not to be had."""
    patches = are_patches(group.fake, comparison.config.crops.size_px)
    if metric.network is None and patches:
        raise NotApplicable("the generated images are no larger than a crop")
    if metric.kind == "patch-fid" and not patches:
        raise NotApplicable("the generated images are larger than a crop; use crop-fid")
    if metric.network:
        comparison.check(group, metric.network)
    else:
        image_figures.check(metric, group, comparison.sets, comparison.config)


def _measure(metric: Metric, group: ResolutionGroup, comparison: Comparison) -> list[Figure]:
    """Compute the figures of a metric: features by all processes, all else by the main one."""
    if metric.network is None:
        return run_on_main(
            comparison.processes,
            lambda: [image_figures.measure(metric, group, comparison.sets, comparison.config)],
        )
    pair = comparison.at(group, metric.network)
    return run_on_main(
        comparison.processes,
        lambda: set_figures.measure(metric, pair, comparison.config, comparison.progress),
    )


class _LeftOut:
    """Metrics that cannot be had, by reason; each reason and metric once, in order."""

    def __init__(self, several: bool):
        """Start with none; several: there are several resolutions, so that a reason names its own."""
        self.several = several
        self.reasons: dict[str, dict[str, None]] = {}
        self.incompatible: IncompatibleStatistics | None = None

    def add(self, metric: Metric, group: ResolutionGroup, error: Exception) -> None:
        """Note why a metric is left out at a resolution."""
        if isinstance(error, IncompatibleStatistics) and self.incompatible is None:
            self.incompatible = error
        where = f"{group.name}: " if self.several and isinstance(error, NotApplicable) else ""
        self.reasons.setdefault(f"{where}{error}", {})[metric.name] = None

    def check(self, found: set[str], config: EvaluationConfig, computed: bool) -> None:
        """Raise InputError where a metric that was asked for was found nowhere, or nothing was."""
        for why, names in self.reasons.items():
            if config.metrics and (missing := [name for name in names if name not in found]):
                raise InputError(f"`metrics` {missing[0]}: {why}")
        if self.incompatible and not computed:  # nothing of the saved statistics can be used: not what was meant
            raise self.incompatible
        if not found:
            raise InputError(f"no metric can be had: {'; '.join(self.reasons)}")


MAX_CROPS_PER_AREA = 4  # crops per room for one from which on they say little of what another draw would give


def warnings_of(comparison: Comparison) -> list[str]:
    """List what spoils the figures: images left out, compression, few samples, crops that overlap; each once."""
    sets, config = comparison.sets, comparison.config
    found = [f"left out: {why}" for _, why in sets.failed or ()]
    found += _of_compression(comparison)
    for (name, _), pair in comparison.done.items():
        counts = pair.real.gaussian.count, pair.fake.gaussian.count
        found += sample_warnings(name, pair.network.title, pair.network.dim, *counts)
    if config.crops.placement == "random":
        for group in sets.groups:
            for side, images in (("real", group.real), ("generated", group.fake)):
                room = sum(image.width * image.height for image in images) / config.crops.size_px**2
                crowded = room * MAX_CROPS_PER_AREA < config.crops.count
                if images and crowded and not are_patches(images, config.crops.size_px):
                    found.append(
                        f"{group.name}: the {side} images have room for {room:.0f} crops side by side, so"
                        f" {config.crops.count} of them overlap: intervals are too narrow, precision and recall too low"
                    )
    return list(dict.fromkeys(found))


def _of_compression(comparison: Comparison) -> list[str]:
    groups = comparison.sets.groups
    real, fake = ([image.lossy for group in groups for image in getattr(group, side)] for side in ("real", "fake"))
    if not real or abs(np.mean(real) - np.mean(fake)) <= 0.5:
        return []
    lossy, lossless = ("real", "generated") if np.mean(real) > 0.5 else ("generated", "real")
    return [f"the {lossy} images are JPEG-compressed and the {lossless} ones are not, which moves every distance"]


def describe_set(side: str, comparison: Comparison) -> dict[str, Any]:
    """Describe the `real` or the `fake` set: its paths, and how many images and crops of which compression."""
    sets = comparison.sets
    lossy = {image.path: image.lossy for group in sets.groups for image in getattr(group, side)}
    crops = [getattr(pair, side).gaussian.count for (_, name), pair in comparison.done.items() if name != "clip"]
    found: dict[str, Any] = {"paths": list(sets.real_paths if side == "real" else sets.fake_paths)}
    if crops:
        found["crops"] = max(crops)
    if lossy:
        share = sum(lossy.values()) / len(lossy)
        found |= {"pictures": len(lossy), "compression": {0: "lossless", 1: "JPEG"}.get(share, "some JPEG")}
    return found
