"""A generated image as the viewer finds one: with its record, its reference and its guide; no network is run."""

from pathlib import Path

import numpy as np

from largegen.images.write import write_image
from largegen.slides.image_info import ImageInfo
from largegen.slides.slide import open_slide

SAMPLING = {"steps": 20, "guidance": 1.5, "scheduler": "ddim", "windows": "overlap", "stride": 16, "eta": 0.0}


def made_after(
    slide: Path,
    out: Path,
    xy: tuple[int, int] = (256, 128),
    size: tuple[int, int] = (768, 512),
    downsample: float = 1.0,
    guide: bool = False,
    mirrored: bool = True,
    **record,
) -> Path:
    """Write an image that shows what lies at `xy` of a slide, mirrored tile by tile, and says that it was generated.

    guide: also a guide and one level, as `largegen zoom --levels` leaves them.
    """
    width, height = size
    with open_slide(slide) as real:
        pixels = real.read(*xy, width, height, downsample)
        mpp = real.mpp and real.mpp * downsample
    tiles = [
        pixels[top : top + 256, left : left + 256][:, :: -1 if mirrored else 1]
        for top in range(0, height, 256)
        for left in range(0, width, 256)
    ]
    rows = [np.concatenate(tiles[n : n + width // 256], 1) for n in range(0, len(tiles), width // 256)]
    pixels = np.concatenate(rows)
    provenance = {
        **{"command": f"largegen generate --ref {slide.name}", "model": "tiny", "licence": "CC0-1.0"},
        **{"encoder": "starter", "reference": slide.stem, "reference_xy": list(xy), "reference_downsample": downsample},
        **{"tile_px": 256, "latent_px": 8, "seed": 7, "sampling": SAMPLING, "precision": "float32"},
        **({"zoom": {"method": "fast"}, "job": "j"} if guide else {}),
        **record,
    }
    info = ImageInfo(width, height, mpp=mpp, description="synthetic image", provenance=provenance)
    write_image(out, [(0, pixels)], info)
    for shrink, name in ((4, "guide"), (2, "10x")) if guide else ():
        small = pixels.reshape(height // shrink, shrink, width // shrink, shrink, 3).mean((1, 3)).astype(np.uint8)
        about = info.at(shrink, {"level": shrink // 2, "guide": name == "guide"})
        write_image(out.with_name(f"{out.stem}_{name}.png"), [(0, small)], about)
    return out
