"""What a region shows, measured in its pixels and said in words of many kinds.

The shares are rough: thresholds on colour, the same for all slides and scenes. They are for captions, not for science.
"""

import bisect
import random
from collections.abc import Mapping

import numpy as np

Shares = Mapping[str, float]

# Words for each share; of those that mean the same any may be drawn.
WORDS = {
    "glass": (
        *("empty glass", "blank background", "white space", "bare glass slide", "empty background"),
        *("empty slide", "clear empty area", "unoccupied space", "blank slide"),
    ),
    "fat": ("fat", "adipose tissue", "fat cells", "adipocytes", "fat lobules", "adipose cells"),
    "nuclei": (
        *("densely packed nuclei", "many dark nuclei", "crowded cells", "dense lymphocytes", "tumour cells"),
        *("high cellularity", "cellular tissue", "dense blue nuclei", "lymphocytes"),
    ),
    "fibres": (
        *("pink fibres", "collagen", "fibrous stroma", "connective tissue", "eosinophilic fibres", "fibrous bands"),
        *("dense collagen bundles", "pink stroma", "fibrosis", "scar"),
    ),
    "roofs": ("roofs", "buildings", "houses", "dense buildings", "a town", "built-up area", "settlements"),
    "road": ("road and asphalt", "grey pavement", "streets", "paved roads", "asphalt", "paving"),
    "trees": ("trees", "forest", "tree crowns", "wood", "dense forest", "dark green trees"),
    "fields": (
        "fields",
        "grass",
        "meadow",
        "green fields",
        "grassland",
        "crops",
        "green grass",
        "grazing land",
        "lawns",
    ),
    "soil": ("bare soil", "brown ground", "dry earth", "ploughed field", "bare land", "brown soil"),
}
# What the test asks in, which no caption says.
HELD_OUT_WORDS = {
    "glass": "vacant slide area",
    "fat": "fatty tissue",
    "nuclei": "hypercellular areas",
    "fibres": "scar-like eosinophilic bands",
    "roofs": "a dense settlement",
    "road": "paved surfaces",
    "trees": "woodland",
    "fields": "green pasture",
    "soil": "unplanted plough land",
}
HELD_OUT_AMOUNTS = ("devoid of {}", "hardly any {}", "{} in places", "dominated by {}")
LIMITS = {"tissue": (0.02, 0.15, 0.4), "aerial": (0.05, 0.12, 0.25)}  # shares from which on the next amount is said
AMOUNTS = (
    (
        *("no {}", "without {}", "free of {}", "lacking {}", "{} absent", "no {} at all", "not any {}"),
        *("absence of {}", "empty of {}", "{} is missing", "not a trace of {}", "contains no {}"),
    ),
    ("a little {}", "few places of {}", "very little {}", "scarcely any {}", "traces of {}", "barely any {}"),
    ("some {}", "partly {}", "{} here and there", "patches of {}", "{} in parts", "scattered {}"),
    ("mostly {}", "full of {}", "a lot of {}", "{}", "{} everywhere", "rich in {}", "predominantly {}"),
)
KINDS = {"tissue": ("glass", "fat", "nuclei", "fibres"), "aerial": ("roofs", "road", "trees", "fields", "soil")}
CAPTIONS = 4  # of a region


def measure(kind: str, tiles: np.ndarray) -> dict[str, np.ndarray]:
    """Measure tiles (N, H, W, 3) uint8: the share of each of KINDS[kind] in each tile, (N,) in 0..1."""
    red, green, blue = np.moveaxis(tiles.astype(np.int16), -1, 0)
    light = (red + green + blue) / 3
    if kind == "tissue":
        white = (light > 215) & (red - green < 25)
        empty = white.mean((1, 2))
        nuclei = (red < 140) & (blue > red) & (light < 150)
        fibres = ~white & (red - green > 35) & (red > 150)
        shares = {"nuclei": np.minimum(1, 2 * nuclei.mean((1, 2))), "fibres": fibres.mean((1, 2))}
        whole = empty > 0.97  # glass has nothing in it; the white of fat has walls
        return {"glass": np.where(whole, empty, 0), "fat": np.where(~whole & (empty > 0.3), empty, 0), **shares}
    plants = 2 * green - red - blue > 15
    soil = ~plants & (red - blue > 30)
    built = ~plants & ~soil
    masks = {"roofs": built & (light > 130), "road": built & (light <= 130), "soil": soil}
    masks |= {"trees": plants & (light < 95), "fields": plants & (light >= 95)}
    return {name: masks[name].mean((1, 2)) for name in KINDS[kind]}


def write_captions(kind: str, subject: str, shares: Shares, rng: random.Random) -> list[str]:
    """Write captions of a region: of what it is, of what it holds, or both.

    subject: from the manifest: organ and finding, or the place; "" for none.
    """
    return [_caption(subject, _content(kind, shares, rng), rng) for _ in range(CAPTIONS)]


def held_out_prompt(name: str, amount: int) -> str:
    """Ask for an amount, 0 (none) to 3 (most), in words that no caption has."""
    return HELD_OUT_AMOUNTS[amount].format(HELD_OUT_WORDS[name])


def _content(kind: str, shares: Shares, rng: random.Random) -> str:
    names = sorted(rng.sample(KINDS[kind], rng.choice((1, 1, 2, 3))), key=lambda name: -shares[name])
    said = []
    for name in names:
        amount = bisect.bisect(LIMITS[kind], shares[name])
        said.append(rng.choice(AMOUNTS[amount]).format(rng.choice(WORDS[name])))
    return rng.choice((", ", " and ", " beside ")).join(said)


def _caption(subject: str, content: str, rng: random.Random) -> str:
    forms = ["{content}", "a region with {content}", "{content}"]
    if subject:
        forms += ["{subject}", "{subject}, {content}", "{subject} with {content}", "an image of {subject}: {content}"]
    return rng.choice(forms).format(subject=subject, content=content)
