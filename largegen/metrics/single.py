"""Figures of generated pictures one by one: seams, agreement with their guides, similarity to their references."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from largegen.errors import InputError
from largegen.headers import read_provenance
from largegen.metrics.guides import guide_of, guide_psnr_of_file
from largegen.metrics.pictures import Level
from largegen.metrics.results import Figure, NotApplicable
from largegen.metrics.seams import borders_of, seam_of_file, tile_borders
from largegen.metrics.sets import Sets
from largegen.metrics.similarity import PairTiles, embed_pairs, similarity
from largegen.slide import open_slide

if TYPE_CHECKING:
    from largegen.encoders import Encoder

TILE_PX = 256  # of the pictures of others
SHRUNK = "the generated pictures are compared at a coarser resolution than their own"


def seam_figure(level: Level, sets: Sets) -> Figure:
    """The mean seam score of the pictures; its floor is that of the places in real ones that they are made after."""
    places = {pair.fake: pair for pair in sets.pairs}
    scores, floors, reasons = [], [], []
    for picture in level.fake:
        if picture.downsample != 1:
            reasons.append(SHRUNK)
            continue
        record = read_provenance(picture.path)
        try:
            borders = borders_of(record) if record else tile_borders(picture.width, picture.height, TILE_PX)
            with picture.open() as slide:
                scores.append(seam_of_file(slide, *borders))
        except InputError as error:
            reasons.append(f"{picture.path}: {error}")
            continue
        pair = places.get(picture.path)
        if pair and (pair.width, pair.height) == (picture.width, picture.height):
            with open_slide(pair.real) as real:
                size = (pair.width, pair.height)
                floors.append(seam_of_file(real, *borders, xy=pair.real_xy, size=size, downsample=pair.scale))
    if not scores:
        raise NotApplicable(reasons[0])
    return Figure(
        metric="seam",
        name="Seam score",
        value=float(np.mean(scores)),
        better="one",
        real_count=len(floors),
        fake_count=len(scores),
        standard_error=_standard_error(scores),
        floor=float(np.mean(floors)) if floors else None,
        note=f"{len(reasons)} pictures have none, the first: {reasons[0]}" if reasons else "",
    )


def guide_figure(level: Level) -> Figure:
    """The mean PSNR between the pictures of `zoom`, shrunk, and their guides."""
    guided = [
        (picture.path, guide)
        for picture in level.fake
        if (record := read_provenance(picture.path)) and (guide := guide_of(picture.path, record))
    ]
    if not guided:
        raise NotApplicable("no generated picture has a guide, as zoom leaves beside its own")
    values = [guide_psnr_of_file(*both) for both in guided]
    return Figure(
        metric="guide-psnr",
        name="PSNR with the guide, dB",
        value=float(np.mean(values)),
        better="higher",
        real_count=len(values),
        fake_count=len(values),
        standard_error=_standard_error(values),
    )


def similarity_figure(
    level: Level,
    sets: Sets,
    load: Callable[[str | None], "Encoder"],
    batch_size: int,
    workers: int,
) -> Figure:
    """The mean cosine between tiles of the pictures and of the real ones that they are made after [L].

    load: gives the encoder that compares them, from the name of that which they were made with, if they say it.
    """
    own = {picture.path for picture in level.fake if picture.downsample == 1}
    pairs = [pair for pair in sets.pairs if pair.fake in own]
    if not pairs:
        raise NotApplicable(sets.unpaired[0] if sets.unpaired else SHRUNK)
    record: dict[str, Any] = read_provenance(Path(pairs[0].fake)) or {}
    encoder = load(record.get("encoder"))
    tiles = PairTiles(pairs, record.get("tile_px", TILE_PX))
    if not len(tiles):
        raise NotApplicable("no tile of a generated picture lies on tissue of its real one")
    found = similarity(*embed_pairs(tiles.batches(batch_size, workers), encoder), tiles.places[:, 0])
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


def _standard_error(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
