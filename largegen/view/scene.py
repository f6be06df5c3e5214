"""A scene: the pictures that belong together in one plane, what lies over them, and all that as JSON for the page."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from largegen.errors import InputError
from largegen.metrics.per_image.guide import guide_of
from largegen.metrics.sets.pairs import Pair, find_pairs
from largegen.slides.by_products import read_sidecar
from largegen.slides.find import IMAGE_SUFFIXES
from largegen.slides.resolution import UNKNOWN, Resolution, Scale
from largegen.slides.slide import slide_name
from largegen.view.facts import facts_of, length
from largegen.view.figures import Figures, figures_of
from largegen.view.layers import WRONG, EncoderChoice, Placed, embedding_layers, result_layers, slide_layers, tile_of
from largegen.view.overlays import Overlay
from largegen.view.sources import Opened, open_to_look
from largegen.view.tiles import TILE_PX, Cache, Picture

log = logging.getLogger(__name__)

STARTER_CHOICE = EncoderChoice()


@dataclass(frozen=True)
class Scene:
    """Pictures in one plane, whose unit is a pixel of the first, and what lies over them."""

    title: str
    pictures: tuple[Picture, ...]  # none of a run that has saved nothing yet
    overlays: tuple[Overlay, ...]
    scale: Scale  # of a pixel of the plane
    figures: Callable[[], Figures] = tuple  # computes names and values for a gallery, which may take long

    @property
    def extent(self) -> str:
        """The size of the first picture in um or m; empty where it is not known."""
        sides = self.pictures[0].width, self.pictures[0].height
        return " × ".join(length(side, self.scale) for side in sides) if self.scale.unit != "px" else ""

    def picture(self, key: str) -> Picture | None:
        """Find a picture."""
        return next((picture for picture in self.pictures if picture.key == key), None)

    def overlay(self, key: str) -> Overlay | None:
        """Find an overlay."""
        return next((overlay for overlay in self.overlays if overlay.key == key), None)

    def as_dict(self, whole: bool = False) -> dict[str, Any]:
        """Describe the scene for the page; `whole`: with the overlays' data, which otherwise are fetched one by one."""
        width, height = (self.pictures[0].width, self.pictures[0].height) if self.pictures else (1, 1)
        return {
            "title": self.title,
            "scale": {"unit": self.scale.unit, "size": self.scale.size},
            "width": width,
            "height": height,
            "pictures": [
                {
                    **{"key": picture.key, "name": picture.name, "role": picture.role},
                    **{"width": picture.width, "height": picture.height, "tile_px": TILE_PX},
                    **{"levels": picture.levels, "box": picture.box or (0, 0, width, height)},
                    **{"facts": picture.facts},
                }
                for picture in self.pictures
            ],
            "overlays": [
                {
                    **{"key": overlay.key, "name": overlay.name, "about": overlay.about, "slow": overlay.slow},
                    **({"data": overlay.data()} if whole else {}),
                }
                for overlay in self.overlays
            ],
        }


def open_scene(
    path: Path,
    ref: Path | None = None,
    *,
    levels: bool = False,
    source: Resolution = UNKNOWN,
    cache: Cache | None = None,
    only_under: bool = False,
    encoder: EncoderChoice = STARTER_CHOICE,
) -> Scene:
    """Open what is to be looked at.

    Args:
        path: a slide, scene, image, result or embedding file.
        ref: a slide, scene, image or embedding file to show beside it: where it lies under it, if that is known.
        levels: also show the magnifications between that `largegen zoom` left beside the image.
        source: the resolution of `path`, or of `ref` where there is one, where its metadata lack it.
        cache: for tiles.
        only_under: show only that part of `ref` that lies under the image.
        encoder: in whose space tiles of the two are compared.

    Raises:
        InputError: a file is none of them, or damaged.
    """
    cache = cache or Cache()
    opened = open_to_look(path, UNKNOWN if ref else source)
    made = opened.provenance
    role = "result" if made else "slide" if opened.slide else "embeddings"
    pictures = [_picture("0", opened, role, cache)]
    overlays, pair = [], None
    if ref is not None:
        real = open_to_look(ref, source)
        pair = _pair_of(opened, real, source)
        pictures.append(_reference(opened, real, pair, cache, only_under and pair is not None))
        if real.slide is not None and not only_under:
            x, y, width, _ = pictures[-1].box or (0, 0, opened.width, 0)
            placed = Placed(real.slide, (x, y), real.width / width)
            tile = tile_of(opened)
            overlays = slide_layers(placed, "reference", *((tile, pair.scale) if tile and pair else ()))
    for name, side in _beside(path, opened, levels):
        role = "guide" if name == "guide" else "level"
        box = (0.0, 0.0, float(opened.width), float(opened.height))
        pictures.append(_picture(str(len(pictures)), open_to_look(side), role, cache, box))
    own = result_layers(opened, pair, encoder) if made else embedding_layers(opened)
    if opened.slide and not made and opened.grid is None:
        own = slide_layers(Placed(opened.slide), "")
    similarity = next((overlay for overlay in own if overlay.key == "similarity"), None)
    figures = partial(figures_of, opened, similarity)
    return Scene(opened.path.name, tuple(pictures), (*own, *overlays), opened.scale, figures)


def _picture(
    key: str, opened: Opened, role: str, cache: Cache, box: tuple[float, float, float, float] | None = None
) -> Picture:
    size = opened.width, opened.height
    facts = facts_of(opened)
    return Picture(key, opened.path.name, role, opened.source, *size, box=box, facts=facts, cache=cache)


def _pair_of(opened: Opened, real: Opened, source: Resolution) -> Pair | None:
    """Find where an image lies on its reference; None, which is said, where its provenance does not tell."""
    if real.slide is None:
        return None
    try:
        pairs, why = find_pairs({opened.path: opened.provenance}, [real.slide.path], source)
    except WRONG as error:
        pairs, why = [], [f"{opened.path}: its provenance makes no sense: {type(error).__name__}"]
    if not pairs:
        log.warning("%s; the two are laid corner on corner, which need not be so", why[0])
        return None
    return pairs[0]


def _reference(opened: Opened, real: Opened, pair: Pair | None, cache: Cache, only_under: bool) -> Picture:
    """Lay the reference under the image: where it belongs, else corner on corner at its resolution."""
    facts, size = facts_of(real), (real.width, real.height)
    if pair is not None and only_under:
        (x, y), scale = pair.real_xy, pair.scale
        box = (0.0, 0.0, float(pair.width), float(pair.height))
        picture = (real.path.name, "reference", real.source, pair.width, pair.height, (x, y), scale, box)
        return Picture("1", *picture, facts=facts, cache=cache)
    if pair is not None:
        scale, (x, y) = pair.scale, pair.real_xy
    else:
        same = opened.scale.unit == real.scale.unit != "px"
        scale, (x, y) = opened.scale.size / real.scale.size if same else 1.0, (0, 0)
    box = (-x / scale, -y / scale, real.width / scale, real.height / scale)
    return Picture("1", real.path.name, "reference", real.source, *size, box=box, facts=facts, cache=cache)


def _beside(path: Path, opened: Opened, levels: bool) -> Sequence[tuple[str, Path]]:
    """List what `largegen zoom` left beside an image: its guide, and if wanted the levels between."""
    record = opened.provenance
    try:
        guide = guide_of(path, record) if record else None
    except WRONG:
        return []
    if guide is None:
        return []
    found = [("guide", guide)]
    stem = slide_name(path)
    for side in sorted(path.parent.iterdir()) if levels else ():
        name = side.name.removeprefix(f"{stem}_").removesuffix(side.suffix)
        if side == guide or side.suffix.lower() not in IMAGE_SUFFIXES or not side.name.startswith(f"{stem}_"):
            continue
        said = read_sidecar(side) or {}
        if said.get("guide") is False and said.get("job") == record.get("job"):
            found.append((name, side))
    if levels and len(found) == 1:
        raise InputError(f"{path}: no levels lie beside it: `largegen zoom --levels` writes them")
    return found
