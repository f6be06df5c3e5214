"""Figures of generated images one by one: seams, agreement with their guides, likeness to their references."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from largegen.errors import InputError, SlideError
from largegen.metrics.features.networks import perceptual_network
from largegen.metrics.per_image.guide import guide_of, guide_psnr_of_file
from largegen.metrics.per_image.perceptual import perceptual_distances
from largegen.metrics.per_image.seams import Borders, borders_of, seam_of_file, tile_borders
from largegen.metrics.per_image.similarity import Similarity, embed_pairs, similarity
from largegen.metrics.request import STARTER, EvaluationConfig, Metric
from largegen.metrics.results import Figure, NotApplicable
from largegen.metrics.sets.images import ResolutionGroup
from largegen.metrics.sets.pair_tiles import PairTiles
from largegen.metrics.sets.pairs import Pair
from largegen.metrics.sets.sets import Sets
from largegen.models.encoder import load_encoder
from largegen.slides.slide import open_slide

T = TypeVar("T")
TILE_PX = 256  # of the images of others
COARSER_NOTE = "the generated images are compared at a coarser resolution than their own"
NO_PAIR_NOTE = "none of the pairs has an image of this resolution"
NONE_LEFT_NOTE = "no generated image can be read"


def check(metric: Metric, group: ResolutionGroup, sets: Sets, config: EvaluationConfig) -> None:
    """Raise NotApplicable where a metric has no images to look at, or lacks the package that it needs."""
    if metric.kind == "seam" and not any(image.downsample == 1 for image in group.fake):
        raise NotApplicable(COARSER_NOTE)
    if metric.kind == "guide-psnr":
        guided(group)
    if metric.kind in ("embedding-similarity", "lpips"):
        paired(group, sets)
    if metric.kind == "lpips":
        perceptual_network(config.torch_device)


def measure(metric: Metric, group: ResolutionGroup, sets: Sets, config: EvaluationConfig) -> Figure:
    """Compute a metric of the generated images one by one.

    Raises:
        NotApplicable: No image allows it.
        SlideError: An image is damaged, and such are not to be left out.
    """
    if metric.kind == "seam":
        return seam_figure(group, sets)
    if metric.kind == "guide-psnr":
        return guide_figure(group, sets)
    if metric.kind == "lpips":
        return perceptual_figure(group, sets, config)
    return similarity_figure(group, sets, config)


def guided(group: ResolutionGroup) -> list[tuple[Path, Path]]:
    """List the generated images that have a guide, and it."""
    found = [
        (image.path, guide) for image in group.fake if (guide := guide_of(image.path, image.provenance)) is not None
    ]
    if not found:
        raise NotApplicable("no generated image has a guide, as zoom leaves beside its own")
    return found


def paired(group: ResolutionGroup, sets: Sets) -> list[Pair]:
    """List the pairs of the generated images that are compared in their own pixels."""
    own = {image.path for image in group.fake if image.downsample == 1}
    pairs = [pair for pair in sets.pairs if pair.fake in own]
    if not pairs:
        raise NotApplicable(sets.unpaired[0] if sets.unpaired else COARSER_NOTE if not own else NO_PAIR_NOTE)
    return pairs


def seam_figure(group: ResolutionGroup, sets: Sets) -> Figure:
    """Compute the mean seam score of the images; its floor is that of the real places that they are made after."""
    places = {pair.fake: pair for pair in sets.pairs}
    scores, floors, reasons = [], [], []
    for image in group.fake:
        if image.path in sets.left_out:
            continue
        if image.downsample != 1:
            reasons.append(COARSER_NOTE)
            continue
        try:
            made, size = image.provenance, (image.width, image.height)
            borders = borders_of(made) if made else tile_borders(*size, TILE_PX)
            with image.open() as slide:
                scores.append(seam_of_file(slide, *borders))
        except SlideError as error:
            sets.leave_out(image.path, error)
            continue
        except InputError as error:
            reasons.append(f"{image.path}: {error}")
            continue
        pair = places.get(image.path)
        if pair and (pair.width, pair.height) == (image.width, image.height) and pair.real not in sets.left_out:
            try:
                floors.append(_floor_of(pair, borders))
            except SlideError as error:
                sets.leave_out(pair.real, error)
            except InputError:  # flat glass: there is no seam to compare with
                continue
    if not scores:
        raise NotApplicable(reasons[0] if reasons else NONE_LEFT_NOTE)
    return Figure(
        metric="seam",
        name="Seam score",
        value=float(np.mean(scores)),
        better="one",
        real_count=len(floors),
        fake_count=len(scores),
        standard_error=_standard_error(scores),
        floor=float(np.mean(floors)) if floors else None,
        note=f"{len(reasons)} of the images have none, the first: {reasons[0]}" if reasons else "",
    )


def _floor_of(pair: Pair, borders: Borders) -> float:
    """Compute the seam score of the real pixels that an image is made after."""
    with open_slide(pair.real) as real:
        size = (pair.width, pair.height)
        return seam_of_file(real, *borders, xy=pair.real_xy, size=size, downsample=pair.scale)


def guide_figure(group: ResolutionGroup, sets: Sets) -> Figure:
    """Compute the mean PSNR between the images of `zoom`, shrunk, and their guides; infinite if one is its guide."""
    values, reasons = [], []
    for path, guide in guided(group):
        if path in sets.left_out:
            continue
        try:
            values.append(guide_psnr_of_file(path, guide))
        except SlideError as error:
            sets.leave_out(path, error)
        except InputError as error:
            reasons.append(str(error))
    if not values:
        raise NotApplicable(reasons[0] if reasons else NONE_LEFT_NOTE)
    exact = sum(map(math.isinf, values))
    notes = [f"{exact} of {len(values)} show their guide exactly, which is infinite"] if exact else []
    return Figure(
        metric="guide-psnr",
        name="PSNR with the guide, dB",
        value=float(np.mean(values)),
        better="higher",
        real_count=len(values),
        fake_count=len(values),
        standard_error=None if exact else _standard_error(values),
        note="; ".join(notes + reasons),
    )


def similarity_figure(group: ResolutionGroup, sets: Sets, config: EvaluationConfig) -> Figure:
    """Compute the mean cosine between tiles of the images and of the real ones that they are made after [L].

    The encoder is the one asked for, else that which the images say they were made with, else the starter.
    """
    name = config.encoder or _made_by(group, paired(group, sets)).get("encoder") or STARTER
    encoder = load_encoder(name, config.encoder_weights, config.torch_device)

    def compare(tiles: PairTiles) -> Similarity:
        return similarity(*embed_pairs(tiles.batches(config.batch_size, config.workers), encoder), tiles.places[:, 0])

    found = _of_tiles(group, sets, compare)
    unrelated = f"; unrelated real tiles have {found.baseline:.3f}" if found.baseline is not None else ""
    return Figure(
        metric="embedding-similarity",
        name=f"Embedding similarity, {encoder.spec.name}",
        value=found.mean,
        better="higher",
        real_count=len(found.values),
        fake_count=len(found.values),
        standard_error=found.standard_error,
        note=f"{found.retrieved} of {len(found.values)} tiles are nearest to their own reference{unrelated}",
    )


def perceptual_figure(group: ResolutionGroup, sets: Sets, config: EvaluationConfig) -> Figure:
    """Compute the mean ST-LPIPS between tiles of the images and the real ones in their places (Ghildyal & Liu 2022)."""
    network = perceptual_network(config.torch_device)

    def compare(tiles: PairTiles) -> np.ndarray:
        return perceptual_distances(tiles.batches(config.batch_size, config.workers), network, config.torch_device)

    values = _of_tiles(group, sets, compare)
    return Figure(
        metric="lpips",
        name="ST-LPIPS, VGG16",
        value=float(values.mean()),
        better="lower",
        real_count=len(values),
        fake_count=len(values),
        standard_error=_standard_error(values),
    )


def _of_tiles(group: ResolutionGroup, sets: Sets, compare: Callable[[PairTiles], T]) -> T:
    """Return what `compare` makes of the tiles of all pairs; start over without each image that turns out damaged."""
    pairs = paired(group, sets)
    tile_px = _made_by(group, pairs).get("tile_px", TILE_PX)
    while True:
        pairs = [pair for pair in pairs if not {pair.fake, pair.real} & sets.left_out]
        if not pairs:
            raise NotApplicable(NONE_LEFT_NOTE)
        try:
            tiles = PairTiles(pairs, tile_px)
            if not len(tiles):
                raise NotApplicable("no tile of a generated image lies on tissue of its real one")
            return compare(tiles)
        except SlideError as error:
            sets.leave_out(_damaged(pairs, error), error)


def _made_by(group: ResolutionGroup, pairs: Sequence[Pair]) -> Mapping[str, Any]:
    """Return what the generated image of the first pair says of its making."""
    return next(image.provenance for image in group.fake if image.path == pairs[0].fake)


def _damaged(pairs: Sequence[Pair], error: SlideError) -> Path:
    """Find the image that an error is about: each begins with its path."""
    for path in (path for pair in pairs for path in (pair.fake, pair.real)):
        if str(error).startswith(f"{path}: "):
            return path
    raise error


def _standard_error(values: Sequence[float] | np.ndarray) -> float | None:
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
