"""What is to be known of variations before a classifier is trained on them: what they are near to, how unlike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from largegen.augmenting.items import Item
from largegen.augmenting.originals import Originals, evenly, read_tiles
from largegen.augmenting.plan import Variation
from largegen.embeddings.file import EmbeddingFile
from largegen.models.info import ModelInfo
from largegen.models.perceptual import load_perceptual
from largegen.models.pixels import to_network

TILES = 16  # of a variation or an image, evenly taken, that are compared with all tiles of others
ALIKE = 0.999  # cosine similarity from which on the pixels under two embeddings are compared
SAME = 2.0  # mean difference in grey levels up to which two tiles show the same
FLAT = 4.0  # standard deviation in grey levels up to which a tile shows nothing
PAIRS = 24  # whose ST-LPIPS is measured, at most, of variations and of images: a second of a processor core each
SEPARATORS = ("-", "_", ".", " ")  # between a slide's name and the place of a tile in it


@dataclass(frozen=True)
class Nearest:
    """The tile, among those of known images, that is most like one of an image."""

    known: int  # number of the known image
    similarity: float  # cosine, of embeddings
    tile: int  # of the image, by its number in the embedding file
    known_tile: int


def nearest(files: Sequence[EmbeddingFile], known: Sequence[EmbeddingFile], device: torch.device) -> list[Nearest]:
    """Find for each image the tile of known ones that is most like one of its own.

    Args:
        files: Of images; up to 16 tiles of each are compared, those that show more than the background first.
        known: Of the known images, all of whose tiles are; at least one.
        device: Where to compare them.
    """
    numbers = [_tiles_of(file) for file in files]
    owner = np.repeat(np.arange(len(files)), [len(own) for own in numbers])
    rows = [_unit(file.features()[own]) for file, own in zip(files, numbers, strict=True)]
    queries, tiles = torch.cat(rows).to(device), np.concatenate(numbers)
    best = torch.full((len(queries),), -2.0, device=device)
    which, where = (torch.zeros(len(queries), dtype=torch.long, device=device) for _ in range(2))
    for number, file in enumerate(known):
        similarity, place = (queries @ _unit(file.features()).to(device).T).max(1)
        nearer = similarity > best
        best[nearer], which[nearer], where[nearer] = similarity[nearer], number, place[nearer]
    found = []
    for number in range(len(files)):
        own = np.flatnonzero(owner == number)
        row = int(own[int(best[own].argmax())])
        found.append(Nearest(int(which[row]), round(float(best[row]), 4), int(tiles[row]), int(where[row])))
    return found


def _tiles_of(file: EmbeddingFile) -> np.ndarray:
    """Choose up to 16 tiles of a file, of those that show more than the background where there are any."""
    telling = np.flatnonzero(_unit(file.features()) @ _unit(file.background) < ALIKE)
    telling = telling if len(telling) else np.arange(file.count)
    chosen: np.ndarray = telling[evenly(len(telling), TILES)]
    return chosen


def _unit(embeddings: np.ndarray) -> Tensor:
    return F.normalize(torch.from_numpy(embeddings), dim=-1)


def shown_twice(originals: Originals, varied: Sequence[Item], held_out: Sequence[Item]) -> dict[str, Item]:
    """Find images that show, somewhere, the pixels of one that is held out: their names, and that one.

    Tiles of one colour are passed over.
    """
    if not (varied and held_out):
        return {}
    files, known = ([originals.file(item) for item in items] for items in (varied, held_out))
    found = {}
    for item, near in zip(varied, nearest(files, known, originals.model.device), strict=True):
        if near.similarity < ALIKE:
            continue
        own = originals.tiles(item, [near.tile]).astype(float)
        other = originals.tiles(held_out[near.known], [near.known_tile])
        if own.std() > FLAT and np.abs(own - other).mean() <= SAME:
            found[item.name] = held_out[near.known]
    return found


def seen_in_training(info: ModelInfo, items: Sequence[Item]) -> list[str]:
    """List the items that a model was trained on, or their slides: by name, that before a tile's number, or patient."""
    slides = {slide.name for slide in info.trained_on if slide.name}
    starts = tuple(slide + mark for slide in slides for mark in SEPARATORS)
    return [i.name for i in items if i.name in slides or i.patient in slides or i.name.startswith(starts)]


def compare(
    originals: Originals,
    out: Path,
    variations: Sequence[Variation],
    rows: list[dict[str, Any]],
    varied: Sequence[Item],
    held_out: Sequence[Item],
    images: bool,
) -> dict[str, Any]:
    """Add to each variation's row what it is near to and how unlike, and sum up, see `summary`.

    Args:
        originals: Embeds the images.
        out: Directory of the variations' files.
        variations: At least one.
        rows: Of each what its line in the table says.
        varied: The images that could be varied.
        held_out: Those that never are.
        images: Whether images were made, not embeddings alone.
    """
    device = originals.model.device
    files = [EmbeddingFile(originals.folder / f"{variation.name}.h5") for variation in variations]
    sources = list({i.name: i for v in variations for i in (v.item, v.partner) if i is not None}.values())
    for known, name, similarity in (
        (sources, "nearest", "similarity"),
        (held_out, "nearest_held_out", "held_out_similarity"),
    ):
        if known:
            by_row = nearest(files, [originals.file(item) for item in known], device)
            for row, near in zip(rows, by_row, strict=True):
                row |= {name: known[near.known].name, similarity: near.similarity}
    if not (images and can_see()):
        return summary(rows, [])
    pairs = [(n, n + 1) for n in range(len(rows) - 1) if variations[n].item is variations[n + 1].item]
    chosen = [pairs[n] for n in evenly(len(pairs), PAIRS)]

    def shown(n: int) -> np.ndarray:
        tile: np.ndarray = read_tiles(out / rows[n]["file"], files[n], evenly(files[n].count, 1))[0]
        return tile

    def middle(item: Item) -> np.ndarray:
        tile: np.ndarray = originals.tiles(item, evenly(originals.file(item).count, 1))[0]
        return tile

    by_class = sorted(varied, key=lambda item: item.label)
    mates = [(a, b) for a, b in pairwise(by_class) if a.label == b.label]
    few = [mates[n] for n in evenly(len(mates), PAIRS)]
    tiles = [(shown(a), shown(b)) for a, b in chosen] + [(middle(a), middle(b)) for a, b in few]
    found = unlikeness(tiles, device)
    for (n, _), value in zip(chosen, found, strict=False):
        rows[n]["st_lpips"] = value
    return summary(rows, found[len(chosen) :])


def can_see() -> bool:
    """Tell whether the package of ST-LPIPS is installed."""
    return find_spec("stlpips_pytorch") is not None


def unlikeness(pairs: Sequence[tuple[np.ndarray, np.ndarray]], device: torch.device) -> list[float]:
    """Measure ST-LPIPS of pairs of tiles, each (H, W, 3) uint8; 0 is the same (Ghildyal & Liu 2022)."""
    if not pairs:
        return []
    network = load_perceptual("vgg").to(device)
    with torch.inference_mode():
        return [round(float(network(*(to_network(side[None]).to(device) for side in pair))), 4) for pair in pairs]


def summary(rows: Sequence[Mapping[str, Any]], between_images: Sequence[float]) -> dict[str, Any]:
    """Sum up the columns of variations.

    Args:
        rows: Of each variation what its line in the table says.
        between_images: ST-LPIPS of images of one class.
    """
    compared = [row for row in rows if "nearest" in row]
    own = [row for row in compared if row["nearest"] in (row["varied_from"], row.get("mixed_with"))]
    held_out = [row for row in compared if "nearest_held_out" in row]
    nearer = [row["file"] for row in held_out if row["held_out_similarity"] > row["similarity"]]
    unlike = [row["st_lpips"] for row in rows if "st_lpips" in row]
    return {
        "compared": len(compared),
        "nearest_to_their_own_image": len(own),
        "mean_similarity": _mean([row["similarity"] for row in compared]),
        "compared_with_held_out": len(held_out),
        "nearer_to_a_held_out_image": len(nearer),
        "nearer_first": nearer[0] if nearer else None,
        "st_lpips": _mean(unlike),
        "st_lpips_pairs": len(unlike),
        "st_lpips_between_images": _mean(between_images),
    }


def _mean(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 4) if len(values) else None
