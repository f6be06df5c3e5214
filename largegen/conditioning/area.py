"""An image's size and the rectangle of tiles under it."""

import re
from dataclasses import dataclass

import numpy as np

from largegen.errors import InputError
from largegen.models.model import Model
from largegen.slides.tissue import sliding_sums


@dataclass(frozen=True)
class ImageArea:
    """An image's size and the rectangle of tiles that it needs."""

    width: int  # px, at the working resolution
    height: int
    row: int  # first tile
    col: int
    rows: int  # tiles; past the last of the reference the image continues by repetition
    cols: int
    full: bool  # the whole reference

    @property
    def tiles(self) -> tuple[slice, slice]:
        """The rectangle, as an index of the reference's grid."""
        return slice(self.row, self.row + self.rows), slice(self.col, self.col + self.cols)


def parse_size(text: str) -> tuple[int, int] | None:
    """Read an image size: `N` or `WxH` in pixels -> (width, height); `full` -> None.

    Raises:
        InputError: For anything else.
    """
    if text.lower() == "full":
        return None
    match = re.fullmatch(r"(\d+)(?:[xX](\d+))?", text)
    if not match:
        raise InputError(f"`size` {text}: give N, WxH (pixels) or full")
    return int(match[1]), int(match[2] or match[1])


def parse_corner(text: str, field: str = "region") -> tuple[int, int]:
    """Read the corner of an image: `X,Y` in level-0 pixels -> (x, y).

    Args:
        text: What was given.
        field: The parameter, for the message.

    Raises:
        InputError: For anything else.
    """
    match = re.fullmatch(r"(\d+),(\d+)", text.replace(" ", ""))
    if not match:
        raise InputError(f"`{field}` {text}: give X,Y, the top-left corner in level-0 pixels")
    return int(match[1]), int(match[2])


def check_size(size: tuple[int, int], model: Model) -> None:
    """Check that a model can make an image of a size (width, height) in px.

    Raises:
        InputError: Where it cannot.
    """
    width, height = size
    if min(size) < model.tile_px or width % model.factor or height % model.factor:
        raise InputError(
            f"`size` {width}x{height}: sides must be at least {model.tile_px} px and multiples of {model.factor}"
        )


def most_tissue(tissue: np.ndarray, rows: int, cols: int) -> tuple[int, int]:
    """Find (row, col) of the rows x cols rectangle that holds most tissue tiles; of equals, the most central."""
    counts = sliding_sums(tissue, rows, cols)
    best = np.argwhere(counts == counts.max())
    middle = (np.array(counts.shape) - 1) / 2
    row, col = best[np.square(best - middle).sum(1).argmin()]
    return int(row), int(col)


def pure_background(tissue: np.ndarray, window: int, height: int, width: int) -> np.ndarray:
    """Find the latents of an image that show background alone.

    A tile that touches tissue is not pure, so that tissue does not end at a tile's border. Past the last tiles the
    canvas, no smaller than they, continues by repetition.

    Args:
        tissue: (rows, cols) bool, of the tiles.
        window: Latents along a tile's side.
        height: Of the canvas, in latents.
        width: Of the canvas, in latents.

    Returns:
        (height, width) bool: True where no tissue is near.
    """
    rows, cols = tissue.shape
    padded = np.pad(tissue, 1)
    near = np.any([padded[i : i + rows, j : j + cols] for i in range(3) for j in range(3)], axis=0)
    pure = (~near).repeat(window, 0).repeat(window, 1)
    return np.pad(pure, ((0, height - rows * window), (0, width - cols * window)), mode="edge")
