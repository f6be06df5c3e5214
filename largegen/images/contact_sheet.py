"""Contact sheets of sample images."""

from pathlib import Path

import numpy as np

from largegen.runtime.files import atomic

GAP_PX = 4  # between the images of a sheet


def lay_out(images: np.ndarray, columns: int, gap_px: int = GAP_PX) -> np.ndarray:
    """Lay images (N, H, W, 3) uint8 out as one (h, w, 3) uint8 with `columns` of them per row, row by row."""
    count, height, width, _ = images.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap_px) - gap_px, columns * (width + gap_px) - gap_px, 3), 255, np.uint8)
    for number, image in enumerate(images):
        row, col = divmod(number, columns)
        top, left = row * (height + gap_px), col * (width + gap_px)
        sheet[top : top + height, left : left + width] = image
    return sheet


def contact_sheet(images: np.ndarray, columns: int, path: Path) -> None:
    """Write images (N, H, W, 3) uint8, laid out, to the PNG `path`."""
    from PIL import Image

    with atomic(path) as temporary:
        Image.fromarray(lay_out(images, columns)).save(temporary)
