"""Which variations of which images are made, and what is random about each."""

import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from largegen.augmenting.items import Item
from largegen.augmenting.options import AugmentOptions

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Variation:
    """One variation of one image. What is random about it follows from the seed, the image's name and its number."""

    item: Item
    number: int
    seed: int  # of the sampler's noise
    partner: Item | None  # that it is mixed with
    t: float  # how far
    stain_seed: int

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.item.name}-{self.number}"


def vary(items: Sequence[Item], options: AugmentOptions, seed: int) -> list[Variation]:
    """Draw the variations of all images."""
    classes: dict[str, list[Item]] = {}
    places = []  # of the items in their classes
    for item in items:
        places.append(len(classes.setdefault(item.label, [])))
        classes[item.label].append(item)
    found = []
    for item, place in zip(items, places, strict=True):
        mates = classes[item.label]
        for number in range(options.per_image):
            rng = np.random.default_rng([seed, zlib.crc32(item.name.encode()), number])
            own, stain = (int(n) for n in rng.integers(2**63, size=2))
            partner = None
            if options.mix and len(mates) > 1:
                drawn = int(rng.integers(len(mates) - 1))  # among the others
                partner = mates[drawn + (drawn >= place)]
            found.append(Variation(item, number, own, partner, float(rng.uniform(0, options.mix)), stain))
    if options.mix and (alone := {v.item.label for v in found if v.partner is None}):
        log.warning("`mix`: %d classes have one image, %s first: not mixed", len(alone), min(alone))
    return found
