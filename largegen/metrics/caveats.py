"""What to know before trusting the figures of an evaluation, and how its sets are described beside them."""

from typing import Any

import numpy as np

from largegen.metrics.comparison import Comparison
from largegen.metrics.set_figures import sample_warnings
from largegen.metrics.sets.images import are_patches

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
