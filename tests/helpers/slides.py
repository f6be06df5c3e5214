"""Slides that look like tissue, made on the spot."""

from pathlib import Path

import numpy as np

GLASS = 243  # grey value of the glass around the tissue


def tissue_like(width: int, height: int, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8 like H&E: a pink ellipse with purple nuclei in a margin of glass."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    fibres = np.sin(x / 9 + 2 * np.sin(y / 37)) + np.sin((x + y) / 23)
    stroma = np.stack([225 + 8 * fibres, 150 + 18 * fibres, 190 + 10 * fibres], axis=-1)
    out = np.full((height, width, 3), GLASS, np.float32)
    inside = ((x / width - 0.5) / 0.42) ** 2 + ((y / height - 0.5) / 0.40) ** 2 < 1
    out[inside] = stroma[inside]
    for _ in range(width * height // 900):
        radius = rng.uniform(3, 7)
        cx, cy = int(rng.integers(8, width - 8)), int(rng.integers(8, height - 8))
        if inside[cy, cx]:
            patch = np.s_[cy - 8 : cy + 9, cx - 8 : cx + 9]
            nucleus = (x[patch] - cx) ** 2 + (y[patch] - cy) ** 2 < radius**2
            out[patch][nucleus] = (95, 60, 140)
    return (out + rng.normal(0, 1.5, (height, width, 1))).clip(0, 255).astype(np.uint8)


def save_slide(path: Path, pixels: np.ndarray, mpp: float | None = None, **options) -> Path:
    """Write (h, w, bands) pixels: .tif a tiled pyramid, .svs an Aperio-like one, else a plain image."""
    import pyvips

    image = pyvips.Image.new_from_array(pixels)
    if path.suffix not in (".tif", ".svs"):
        image.write_to_file(str(path), **options)
        return path
    if path.suffix == ".svs":
        size, resolution = (
            f"{image.width}x{image.height}",
            f"|AppMag = {10 / mpp:g}|MPP = {mpp:.4f}" if mpp else "",
        )
        description = f"Aperio Image Library v11.2.1 \r\n{size} (256x256) JPEG/RGB Q=90{resolution}"
        image = image.copy()
        image.set_type(pyvips.GValue.gstr_type, "image-description", description)
    elif mpp:
        image = image.copy(xres=1000 / mpp, yres=1000 / mpp)
    pyramid = {"tile": True, "pyramid": True, "tile_width": 256, "tile_height": 256}
    image.tiffsave(str(path), **{"compression": "jpeg", "Q": 90, **pyramid, **options})
    return path


def save_tiff(path: Path, pixels: np.ndarray, **options) -> Path:
    """Write pixels as a TIFF with tifffile's options: RGB, without a description of tifffile's own."""
    import tifffile

    tifffile.imwrite(path, pixels, **{"photometric": "rgb", "metadata": None} | options)
    return path
