"""Seams: how steep an image is at the lines where windows met, relative to elsewhere."""

from collections.abc import Iterable, Mapping, Sequence
from math import gcd
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from largegen.errors import InputError
from largegen.images.provenance import Provenance
from largegen.sampling.settings import Sampling
from largegen.sampling.windows import plan_windows
from largegen.slides.bands import read_bands

if TYPE_CHECKING:
    from largegen.slides.slide import Slide


LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as in JPEG: its coarser chroma is no seam


class Borders(NamedTuple):
    """Where windows begin or end inside an image, in px."""

    rows: tuple[int, ...]  # the borders lie before these rows and columns
    cols: tuple[int, ...]
    phase: int  # they are compared with lines at multiples of so many px


def tile_borders(width: int, height: int, tile_px: int = 256, phase: int = 8) -> Borders:
    """Return the borders of tiles side by side, for an image that does not say how it was made.

    Args:
        width: Of the image, px.
        height: Of the image, px.
        tile_px: Side of a tile.
        phase: px per latent of the autoencoder, 8 in most, and the block of JPEG; less where it does not divide the
            tile.
    """
    rows, cols = (tuple(range(tile_px, side, tile_px)) for side in (height, width))
    return Borders(rows, cols, gcd(tile_px, phase))


def window_borders(width: int, height: int, tile_px: int, latent_px: int, sampling: Sampling) -> Borders:
    """Compute the borders of the windows of a canvas' last step: the steps before are smoothed over by those after.

    Windows of background, which is painted, count like the others.

    Args:
        width: Of the image, px.
        height: Of the image, px.
        tile_px: Side of a window.
        latent_px: px per latent.
        sampling: As `generate.resolve_defaults` gives it.
    """
    s, window = sampling, tile_px // latent_px

    def starts(rows: int, cols: int) -> np.ndarray:
        plan, _ = plan_windows(s.windows, rows, cols, window, s.stride, s.seed, s.steps, None)
        return np.array(plan[-1])

    # Windows form a grid, so a canvas of one latent's width has the rows of all.
    tops, lefts = starts(height // latent_px, 1)[:, 0], starts(1, width // latent_px)[:, 1]
    rows, cols = (
        tuple(v for v in np.union1d(first, first + window).tolist() if 0 < v < side // latent_px)
        for first, side in ((tops, height), (lefts, width))
    )
    return Borders(tuple(v * latent_px for v in rows), tuple(v * latent_px for v in cols), latent_px)


def borders_of(record: Mapping[str, Any]) -> Borders:
    """Compute the borders in an image of ours, from what it says of its making (image_info.read_provenance).

    Those of `zoom`'s published method are its tiles', which its last pass, if there is one, is there to hide.

    Raises:
        InputError: The provenance does not tell them.
    """
    made_by, size = Provenance.read(record), (record["width"], record["height"])
    if made_by.level is not None:
        raise InputError("a patch, or an image shrunk: windows met in none of its own pixels")
    if made_by.tile_px is None or made_by.latent_px is None:
        raise InputError(f"its windows are not recorded: made by {record['generated_by']}, too old")
    if made_by.zoom is not None and made_by.zoom["method"] == "published":
        return tile_borders(*size, made_by.tile_px, made_by.latent_px)
    return window_borders(*size, made_by.tile_px, made_by.latent_px, made_by.settings())


def seam_score(image: np.ndarray, rows: Sequence[int], cols: Sequence[int], phase: int = 1) -> float:
    """Compute how steep an image is at borders: the mean absolute gradient across them, relative to elsewhere.

    Args:
        image: (H, W, 3) uint8.
        rows: The borders lie before these rows of pixels.
        cols: And before these columns.
        phase: Compare with lines at multiples of so many px only, so that the autoencoder's own grid (its px per
            latent) does not pass for a seam.

    Returns:
        1 for no seam, 2 for one twice as steep.

    Raises:
        InputError: There is no border inside, or nothing but borders, or the image is flat between them.
    """
    return _score([image], rows, cols, phase)


def seam_of_file(
    slide: "Slide",
    rows: Sequence[int],
    cols: Sequence[int],
    phase: int = 1,
    *,
    xy: tuple[int, int] = (0, 0),
    size: tuple[int, int] | None = None,
    downsample: float = 1.0,
) -> float:
    """Compute `seam_score` of a slide or image of any size, which is read in bands.

    A real image measured where a generated one has its borders gives the score of no seam at all.

    Args:
        slide: It is open.
        rows: As `seam_score` takes them.
        cols: Likewise.
        phase: Likewise.
        xy: Top-left corner in level-0 px.
        size: (width, height) in px of `downsample` level-0 px each; by default all.
        downsample: Level-0 px per px.
    """
    return _score(read_bands(slide, xy, size, downsample), rows, cols, phase)


def _score(bands: Iterable[np.ndarray], rows: Sequence[int], cols: Sequence[int], phase: int) -> float:
    """Compute the seam score of an image that arrives in (h, W, 3) uint8 bands, top to bottom."""
    axes, borders = _steps(bands, phase), (rows, cols)
    lines = [np.arange(1, len(axis) + 1) * phase for axis in axes]
    at_border = np.concatenate([np.isin(*pair) for pair in zip(lines, borders, strict=True)])
    steps = np.concatenate(axes)
    if at_border.all() or not at_border.any():
        raise InputError(
            f"no seam score: of {len(steps)} lines every {phase} px, {at_border.sum()} are windows' borders"
        )
    elsewhere = steps[~at_border].mean()
    if not elsewhere:
        raise InputError("no seam score: the image is flat between the borders")
    return float(steps[at_border].mean() / elsewhere)


def _steps(bands: Iterable[np.ndarray], phase: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute the mean absolute step, float64, to rows phase, 2 phase, ... from the row above each; so for columns."""
    to_rows: list[np.ndarray] = []
    to_cols: np.ndarray = np.zeros(())  # sums over rows
    height, above = 0, None  # rows so far; the last of them
    for band in bands:
        grey = band.astype(np.float32) @ LUMA_WEIGHTS
        to_cols = to_cols + np.abs(grey[:, phase::phase] - grey[:, phase - 1 : -1 : phase]).sum(0, dtype=np.float64)
        if above is not None:
            grey = np.concatenate([above, grey])
        first = height - (above is not None)  # which row of the image grey[0] is
        height = first + len(grey)
        lines = np.arange(first // phase * phase + phase, height, phase) - first
        to_rows.append(np.abs(grey[lines] - grey[lines - 1]).mean(1, dtype=np.float64))
        above = grey[-1:]
    return np.concatenate(to_rows), to_cols / height
