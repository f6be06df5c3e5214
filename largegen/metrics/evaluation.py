"""`largegen eval`: from two sets of images to all figures that they and the weights at hand allow."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from largegen.errors import HubError, InputError, ModelError
from largegen.metrics import image_figures
from largegen.metrics.comparison import Comparison, SetPair
from largegen.metrics.request import STARTER, Config, Metric, are_patches, metrics_of
from largegen.metrics.results import Evaluation, Figure, IncompatibleStatistics, LeftOut, LevelFigures, NotApplicable
from largegen.metrics.set_figures import frechet_figure, kernel_figure, neighbour_figures, sample_warnings
from largegen.metrics.sets.crops import Crops
from largegen.metrics.sets.images import ResolutionGroup, SetImage
from largegen.metrics.sets.sets import Sets
from largegen.models.encoder import Encoder, load_encoder
from largegen.runtime.distributed import run_on_main
from largegen.version import __version__

if TYPE_CHECKING:
    from accelerate import PartialState


MAX_CROPS_PER_AREA = 4  # crops per room for one from which on they say little of what another draw would give
TITLES = {"patch-fid": "Patch FID", "crop-fid": "Crop FID", "clip-fid": "CLIP FID"}


def evaluate(
    sets: Sets, config: Config, processes: "PartialState", progress: bool = False
) -> tuple[Evaluation, Comparison]:
    """All figures of two sets, and the features behind them. Several processes share the crops; all get the figures.

    Raises InputError where a metric that was asked for cannot be had, or none at all, and SlideError for a damaged
    image, unless such are left out.
    """
    comparison = Comparison(sets, config, processes, progress)
    for metric in config.metrics:
        _require(metric, comparison)
    levels, unlike = [], None
    left_out: dict[str, dict[str, None]] = {}  # reasons and the metrics that they hold for, each once, in order
    for level in sets.levels:
        figures = []
        for metric in metrics_of(level, config):
            try:
                figures += _measure(metric, level, comparison)
            except NotApplicable as error:
                unlike = unlike or (error if isinstance(error, IncompatibleStatistics) else None)
                where = f"{level.name}: " if len(sets.levels) > 1 else ""
                left_out.setdefault(f"{where}{error}", {})[metric.name] = None
            except (HubError, ModelError) as error:
                if config.names(metric):
                    raise
                left_out.setdefault(str(error), {})[metric.name] = None
        if figures:
            levels.append(LevelFigures(level.name, tuple(figures)))
    if sets.failed is not None:  # what the main process alone came upon, among images one by one
        sets.failed[:] = run_on_main(processes, lambda: sets.failed)
    found = {figure.metric for level in levels for figure in level.figures}
    for why, names in left_out.items():
        if config.metrics and (missing := [name for name in names if name not in found]):
            raise InputError(f"--metrics {missing[0]}: {why}")
    if unlike and not comparison.done:  # nothing of the saved statistics can be used: not what was meant
        raise unlike
    if not found:
        raise InputError(f"no metric can be had: {'; '.join(left_out)}")
    evaluation = Evaluation(
        real=_described(sets, "real", comparison),
        fake=_described(sets, "fake", comparison),
        levels=tuple(levels),
        left_out=tuple(LeftOut(", ".join(names), why) for why, names in left_out.items()),
        warnings=tuple(_warnings(sets, config, comparison)),
        settings=_settings(config) | {"features": [compared.fake.key for compared in comparison.done.values()]},
    )
    return evaluation, comparison


def plan(sets: Sets, config: Config) -> dict[str, Any]:
    """What `evaluate` would do: images, crops and metrics of each level."""

    def count(images: Sequence[SetImage]) -> dict[str, int]:
        return {"pictures": len(images), "crops": len(Crops(images, config.crops, sets.failed))}

    levels = [
        {
            "level": level.name,
            "real": count(level.real) if level.real else "saved statistics",
            "fake": count(level.fake),
            "metrics": [metric.name for metric in metrics_of(level, config)],
        }
        for level in sets.levels
    ]
    return {"levels": levels, "settings": _settings(config)}


def _settings(config: Config) -> dict[str, Any]:
    settings = {**asdict(config.crops), "encoder": config.encoder or STARTER, "replicates": config.replicates}
    return {**settings, "device": str(config.device), "largegen": __version__}


def _require(metric: Metric, comparison: Comparison) -> None:
    """Raise InputError, before the work, for a metric that can be had at no level."""
    reasons = []
    for level in comparison.sets.levels:
        try:
            return _check(metric, level, comparison)
        except (NotApplicable, HubError, ModelError) as error:
            reasons.append(error)
    raise InputError(f"--metrics {metric.name}: {reasons[0]}") from reasons[0]


def _check(metric: Metric, level: ResolutionGroup, comparison: Comparison) -> None:
    """Raise NotApplicable, HubError or ModelError where the metric is known beforehand not to be had."""
    patches = are_patches(level.fake, comparison.config.crops.size_px)
    if metric.network is None and patches:
        raise NotApplicable("the generated images are no larger than a crop")
    if metric.kind == "patch-fid" and not patches:
        raise NotApplicable("the generated images are larger than a crop; use crop-fid")
    if metric.network:
        comparison.check(level, metric.network)
    else:
        image_figures.check(metric.kind, level, comparison.sets, comparison.config.device)


def _measure(metric: Metric, level: ResolutionGroup, comparison: Comparison) -> list[Figure]:
    _check(metric, level, comparison)
    if metric.network is None:
        return run_on_main(comparison.processes, lambda: [_single(metric, level, comparison)])
    compared = comparison.at(level, metric.network)
    return run_on_main(comparison.processes, lambda: _in_space(metric, compared, comparison))


def _single(metric: Metric, level: ResolutionGroup, comparison: Comparison) -> Figure:
    """A figure of generated images one by one."""
    sets, config = comparison.sets, comparison.config
    if metric.kind == "seam":
        return image_figures.seam_figure(level, sets)
    if metric.kind == "guide-psnr":
        return image_figures.guide_figure(level, sets)
    if metric.kind == "lpips":
        return image_figures.perceptual_figure(level, sets, config.device, config.batch_size, config.workers)
    return image_figures.similarity_figure(level, sets, partial(_encoder, config), config.batch_size, config.workers)


def _encoder(config: Config, made_with: str | None) -> Encoder:
    """The encoder of --encoder, else that which images were made with, else the starter."""
    name = config.encoder or made_with or STARTER
    return load_encoder(name, config.weights.get("encoder"), config.device)


def _in_space(metric: Metric, compared: SetPair, comparison: Comparison) -> list[Figure]:
    """Figures of both sets in a network's space; only in Inception's and CLIP's is a distance called FID."""
    network, real, fake = compared.network, compared.real, compared.fake
    of_papers = network.name in ("inception", "clip") and network.standard
    space = "" if of_papers else f", {network.title}"
    if metric.kind == "kid":
        return [kernel_figure(metric.name, f"KID{space}" if of_papers else f"Kernel distance{space}", real, fake)]
    if metric.kind == "precision-recall":
        return neighbour_figures(metric.name, space, real, fake)
    name = TITLES[metric.kind] if of_papers else f"Fréchet distance{space}"
    config, progress = comparison.config, comparison.progress
    return [frechet_figure(metric.name, name, real, fake, config.replicates, config.crops.seed % 2**64, progress)]


def _warnings(sets: Sets, config: Config, comparison: Comparison) -> list[str]:
    """What to know before trusting the figures, each line once."""
    found = [f"left out: {why}" for _, why in sets.failed or ()]
    found += _of_compression(sets)
    for (level, _), compared in comparison.done.items():
        counts = compared.real.gaussian.count, compared.fake.gaussian.count
        found += sample_warnings(level, compared.network.title, compared.network.dim, *counts)
    if config.crops.placement == "random":
        for level in sets.levels:
            for name, images in (("real", level.real), ("generated", level.fake)):
                room = sum(image.width * image.height for image in images) / config.crops.size_px**2
                if (
                    images
                    and room * MAX_CROPS_PER_AREA < config.crops.count
                    and not are_patches(images, config.crops.size_px)
                ):
                    found.append(
                        f"{level.name}: the {name} images have room for {room:.0f} crops side by side, so"
                        f" {config.crops.count} of them overlap: intervals are too narrow, precision and recall too low"
                    )
    return list(dict.fromkeys(found))


def _of_compression(sets: Sets) -> list[str]:
    real, fake = ([image.lossy for level in sets.levels for image in getattr(level, side)] for side in ("real", "fake"))
    if not real or abs(np.mean(real) - np.mean(fake)) <= 0.5:
        return []
    lossy, lossless = ("real", "generated") if np.mean(real) > 0.5 else ("generated", "real")
    return [f"the {lossy} images are JPEG-compressed and the {lossless} ones are not, which moves every distance"]


def _described(sets: Sets, side: str, comparison: Comparison) -> dict[str, Any]:
    """A set, for the report."""
    lossy = {image.path: image.lossy for level in sets.levels for image in getattr(level, side)}
    crops = [getattr(c, side).gaussian.count for (_, name), c in comparison.done.items() if name != "clip"]
    found = {"paths": list(sets.real_paths if side == "real" else sets.fake_paths)}
    if crops:
        found["crops"] = max(crops)
    if lossy:
        share = sum(lossy.values()) / len(lossy)
        found |= {"pictures": len(lossy), "compression": {0: "lossless", 1: "JPEG"}.get(share, "some JPEG")}
    return found
