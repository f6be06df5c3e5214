"""Contact sheets of sample pictures."""

from pathlib import Path

import numpy as np

from largegen.runtime import atomic


def contact_sheet(pictures: np.ndarray, columns: int, path: Path, gap_px: int = 4) -> None:
    """Write pictures (N, H, W, 3) uint8 as a sheet of `columns` per row, row by row, to the PNG `path`."""
    from PIL import Image

    count, height, width, _ = pictures.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap_px) - gap_px, columns * (width + gap_px) - gap_px, 3), 255, np.uint8)
    for number, picture in enumerate(pictures):
        row, col = divmod(number, columns)
        top, left = row * (height + gap_px), col * (width + gap_px)
        sheet[top : top + height, left : left + width] = picture
    with atomic(path) as temporary:
        Image.fromarray(sheet).save(temporary)
