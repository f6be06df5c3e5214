"""Bands as stored to red, green and blue; the colour of glass."""

import numpy as np

WHITE = (255, 255, 255)


def to_rgb(
    raw: np.ndarray,
    shown: tuple[float, float] | None = None,
    behind: tuple[int, int, int] | None = None,
    *,
    full: float | None = None,
    premultiplied: bool = False,
) -> np.ndarray:
    """Convert bands as stored to colours.

    Args:
        raw: (h, w, bands) uint8, uint16 or, of scenes, float32: grey or red, green and blue, then perhaps opacity.
        shown: the values that become 0 and 255; None for 8 bits as they are.
        behind: the colour that what is transparent lies on; None if no band is opacity.
        full: the opacity of what is opaque; by default the largest number of its type.
        premultiplied: whether the colours are multiplied by the opacity.

    Returns:
        (h, w, 3) uint8, grey repeated.
    """
    colour = raw[..., :3] if raw.shape[2] >= 3 else raw[..., :1].repeat(3, axis=2)
    if shown is not None:
        low, high = shown
        colour = np.clip((colour - low) * (255 / (high - low)) + 0.5, 0, 255).astype(np.uint8)
    full = full or full_opacity(raw.dtype)
    if behind is not None and raw[..., -1].min() < full:
        opacity = np.minimum(raw[..., -1:] / np.float32(full), 1)
        above = colour if premultiplied else colour * opacity
        colour = (above + np.array(behind, np.float32) * (1 - opacity) + 0.5).clip(0, 255).astype(np.uint8)
    return colour


def full_opacity(dtype: np.dtype) -> float:
    """Return the opacity of what is opaque: the largest number of a type of whole numbers, 1 of floating point."""
    return float(np.iinfo(dtype).max) if dtype.kind in "ui" else 1.0


def glass_colour(pixels: np.ndarray) -> tuple[int, int, int]:
    """Return the median of the bright, colourless ones of (h, w, 3) uint8 pixels; white if fewer than 1 % are such."""
    highest, lowest = pixels.max(axis=2).astype(int), pixels.min(axis=2)
    glass = pixels[(highest > 200) & (highest - lowest < 0.05 * highest)]  # saturation below 0.05
    if 100 * len(glass) < highest.size:
        return WHITE
    red, green, blue = np.median(glass, axis=0).astype(int).tolist()
    return red, green, blue
