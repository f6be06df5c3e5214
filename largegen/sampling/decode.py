"""From a canvas of latents to pixels, in bands from top to bottom: in blended windows, or in exact blocks."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from largegen.models.local_autoencoder import Around
from largegen.models.pixels import to_uint8
from largegen.sampling.rows import Latents, rows_of
from largegen.sampling.windows import Place, axis_starts

PIECE_ROWS = 16  # px that sums become grey levels at once
SIGMA = 0.8  # width of the blending weight, in half windows [L]
BLOCK = 64, 128  # latents, rows and columns: larger ones need more memory, and smaller ones decode more twice


@torch.no_grad()
def decode_canvas(
    decode: Callable[[Tensor], Tensor],
    latents: Latents,
    *,
    factor: int,
    window: int,
    stride: int,
    margin: int = 0,
    batch_size: int = 8,
    device: torch.device | str = "cpu",
    skip: np.ndarray | None = None,
    skip_colour: tuple[int, int, int] = (255, 255, 255),
    between: tuple[int, int] | None = None,
    progress: bool = False,
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode overlapping windows of a canvas and blend them with Gaussian weights [L, sec. 3].

    A band goes out as soon as no later window touches it, so that memory holds one row of windows, whatever the canvas'
    height.

    Args:
        decode: (B, C, h, w) latents on `device` -> (B, 3, h * factor, w * factor) in [-1, 1].
        latents: (1, C, H, W) float32.
        factor: px per latent.
        window: side of a window, in latents.
        stride: between windows, in latents.
        margin: latents along a window's inner edges that count for nothing: there the decoder saw padding in place of
            the image's other side. 0 is the published way; at most half of what windows overlap.
        batch_size: windows per call of `decode`.
        device: of the decoder.
        skip: (H, W) bool, True for background; windows of nothing else are not decoded.
        skip_colour: of the background, RGB, 0 to 255.
        between: the first row of latents that goes out, and that after the last one; None: all. The pixels are those
            of the whole: windows that begin before are decoded, too.
        progress: show a progress bar.

    Yields:
        (y0_px, band (h_px, W * factor, 3) uint8), top to bottom without gaps; y0_px of the whole.
    """
    _, _, height, width = latents.shape
    first, last = between or (0, height)
    h, w = min(window, height), min(window, width)
    tops, lefts = axis_starts(height, window, stride), axis_starts(width, window, stride)
    skip = np.zeros((height, width), bool) if skip is None else np.asarray(skip, bool)
    # Windows form a grid and exp(-(y^2 + x^2)) a product, so their sum is rows' times columns'.
    row_weights = {top: _weight(top, h, height, margin, factor) for top in tops}
    col_weights = {left: _weight(left, w, width, margin, factor) for left in lefts}
    row_total, col_total = _total(row_weights, height * factor, factor), _total(col_weights, width * factor, factor)

    band = torch.zeros(3, h * factor, width * factor)
    rows = [row for row in zip(tops, [*tops[1:], height], strict=True) if row[0] + h > first and row[0] < last]
    for top, following in tqdm(rows, "decode", unit="row", disable=None if progress else True):
        places = [left for left in lefts if not skip[top : top + h, left : left + w].all()]
        strip = rows_of(latents, top, top + h) if places else torch.empty(0)
        for start in range(0, len(places), batch_size):
            batch = places[start : start + batch_size]
            windows = torch.cat([strip[..., left : left + w] for left in batch])
            pixels = decode(windows.to(device)).float().cpu()
            for left, image in zip(batch, pixels, strict=True):
                x = left * factor
                band[..., x : x + w * factor] += image * row_weights[top][:, None] * col_weights[left]
        done = (following - top) * factor  # pixel rows that no later window touches
        start, end = max(top, first), min(following, last)
        if start < end:
            part = band[:, (start - top) * factor : (end - top) * factor]
            image = np.empty((part.shape[1], part.shape[2], 3), np.uint8)
            for y in range(0, len(image), PIECE_ROWS):  # in pieces, so that only the sums are as wide as they are high
                total = row_total[start * factor :][y : min(y + PIECE_ROWS, len(image)), None]
                mean = part[:, y : y + len(total)] / total / col_total
                image[y : y + len(total)] = to_uint8(mean).permute(1, 2, 0).numpy()  # (3, h, W) => (h, W, 3)
            _paint(image, skip[start:end], skip_colour)
            yield start * factor, image
        for y in range(0, band.shape[1], done):  # moved up in parts that do not overlap
            moved = band[:, y + done : y + 2 * done]
            band[:, y : y + moved.shape[1]] = moved
        band[:, max(0, band.shape[1] - done) :] = 0


@torch.no_grad()
def decode_blocks(
    decode: Callable[[Tensor, Around], Tensor],
    latents: Latents,
    *,
    factor: int,
    reach: int,
    device: torch.device | str = "cpu",
    skip: np.ndarray | None = None,
    skip_colour: tuple[int, int, int] = (255, 255, 255),
    between: tuple[int, int] | None = None,
    progress: bool = False,
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode a canvas by a decoder of limited reach: the pixels are those of the canvas decoded whole.

    Each block of latents is decoded once, with what its pixels depend on around it.

    Args:
        decode: (1, C, h, w) latents on `device`, and how many of them above, below, left and right are there for what
            they lend alone -> (1, 3, h' * factor, w' * factor) in [-1, 1], of the others.
        latents: (1, C, H, W) float32.
        factor: px per latent.
        reach: how many latents away from a pixel's own those may lie at most that it depends on.
        device: of the decoder.
        skip: as for `decode_canvas`; blocks of nothing else are not decoded.
        skip_colour: of the background, RGB, 0 to 255.
        between: the first row of latents that goes out, and that after the last one; None: all.
        progress: show a progress bar.

    Yields:
        What `decode_canvas` does.
    """
    _, _, height, width = latents.shape
    first, last = between or (0, height)
    skip = np.zeros((height, width), bool) if skip is None else np.asarray(skip, bool)
    rows = [row for row in _spans(height, BLOCK[0], reach) if row[1] > first and row[0] < last]
    for top, bottom, above, below in tqdm(rows, "decode", unit="row", disable=None if progress else True):
        image = np.empty(((bottom - top) * factor, width * factor, 3), np.uint8)
        cols = [col for col in _spans(width, BLOCK[1], reach) if not skip[top:bottom, col[0] : col[1]].all()]
        strip = rows_of(latents, above, below) if cols else torch.empty(0)
        for left, right, before, after in cols:
            around = top - above, below - bottom, left - before, after - right
            pixels = decode(strip[..., before:after].to(device), around)[0]
            image[:, left * factor : right * factor] = to_uint8(pixels).permute(1, 2, 0).cpu().numpy()
        _paint(image, skip[top:bottom], skip_colour)
        start, end = max(top, first), min(bottom, last)
        yield start * factor, image[(start - top) * factor : (end - top) * factor]


def block_sizes(height: int, width: int, skip: np.ndarray | None = None) -> list[Place]:
    """List the sides, in latents, of the blocks of `decode_blocks`; parameters as there."""
    return [
        (bottom - top, right - left)
        for top, bottom, _, _ in _spans(height, BLOCK[0], 0)
        for left, right, _, _ in _spans(width, BLOCK[1], 0)
        if skip is None or not skip[top:bottom, left:right].all()
    ]


def _spans(side: int, block: int, reach: int) -> list[tuple[int, int, int, int]]:
    """Cut an axis into blocks: (start, end, before, after); from before to after lies all that its pixels depend on."""
    starts = range(0, side, block)
    ends = [min(start + block, side) for start in starts]
    return [(s, e, max(0, s - reach), min(e + reach, side)) for s, e in zip(starts, ends, strict=True)]


def _paint(image: np.ndarray, skip: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Paint the background of an image (H, W, 3); skip: by latent, True there."""
    factor = len(image) // len(skip)
    painted = skip.repeat(factor, 0).repeat(factor, 1)
    np.copyto(image, np.array(colour, np.uint8), where=painted[..., None])


def _weight(start: int, window: int, size: int, margin: int, factor: int) -> Tensor:
    """Compute exp(-d^2 / SIGMA^2) along one axis, d from -1 at the first pixel to 1 at the last; (window * factor,).

    It is 0 along `margin` latents of each edge that is not the canvas'. start, window, size, margin: in latents.
    """
    d = torch.linspace(-1, 1, window * factor)
    weight = torch.exp(-((d / SIGMA) ** 2))
    if start > 0:
        weight[: margin * factor] = 0
    if start + window < size:
        weight[len(weight) - margin * factor :] = 0
    return weight


def _total(weights: dict[int, Tensor], size_px: int, factor: int) -> Tensor:
    """Sum the windows' weights along one axis of the canvas, (size_px,); weights: by where they start, in latents."""
    total = torch.zeros(size_px)
    for start, weight in weights.items():
        total[start * factor :][: len(weight)] += weight
    return total
