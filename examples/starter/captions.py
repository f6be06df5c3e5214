"""What a region shows, measured in its pixels and said in words of many kinds.

The shares are rough: thresholds on colour, the same for all slides and scenes. They are for captions, not for science.
"""

import random
from collections.abc import Mapping

import numpy as np

Shares = Mapping[str, float]

# Words for each share; of two that mean the same either may be drawn.
WORDS = {
    "glass": ("empty glass", "blank background", "white space"),
    "fat": ("fat", "adipose tissue", "fat cells", "adipocytes"),
    "nuclei": ("densely packed nuclei", "many dark nuclei", "crowded cells", "dense lymphocytes or tumour cells"),
    "fibres": ("pink fibres", "collagen", "fibrous stroma", "connective tissue"),
    "roofs": ("roofs", "buildings", "houses"),
    "road": ("road and asphalt", "grey pavement", "streets"),
    "trees": ("trees", "forest", "tree crowns"),
    "fields": ("fields", "grass", "meadow"),
    "soil": ("bare soil", "brown ground", "dry earth"),
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
HELD_OUT_AMOUNTS = ((0.02, "devoid of {}"), (0.15, "hardly any {}"), (0.4, "{} in places"), (1.01, "dominated by {}"))
AMOUNTS = (
    (0.02, ("no {}", "without {}")),
    (0.15, ("a little {}", "few places of {}")),
    (0.4, ("some {}", "partly {}")),
    (1.01, ("mostly {}", "full of {}", "a lot of {}")),
)
KINDS = {"tissue": ("glass", "fat", "nuclei", "fibres"), "aerial": ("roofs", "road", "trees", "fields", "soil")}
CAPTIONS = 8  # of a region


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


def held_out_prompt(name: str, share: float) -> str:
    """Ask for a share in words that no caption has."""
    return next(text for end, text in HELD_OUT_AMOUNTS if share < end).format(HELD_OUT_WORDS[name])


def _content(kind: str, shares: Shares, rng: random.Random) -> str:
    names = sorted(rng.sample(KINDS[kind], rng.choice((1, 1, 2, 3))), key=lambda name: -shares[name])
    said = []
    for name in names:
        texts = next(texts for end, texts in AMOUNTS if shares[name] < end)
        said.append(rng.choice(texts).format(rng.choice(WORDS[name])))
    return rng.choice((", ", " and ", " beside ")).join(said)


def _caption(subject: str, content: str, rng: random.Random) -> str:
    forms = ["{content}", "a region with {content}", "{content}"]
    if subject:
        forms += ["{subject}", "{subject}, {content}", "{subject} with {content}", "an image of {subject}: {content}"]
    return rng.choice(forms).format(subject=subject, content=content)
