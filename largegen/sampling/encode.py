"""From pixels to a canvas of latents, in bands from top to bottom; a large canvas is kept in a file."""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from largegen.models.model import Model
from largegen.models.pixels import to_network
from largegen.runtime.files import atomic
from largegen.sampling import stored_canvas
from largegen.sampling.generate import decoded_at_once
from largegen.sampling.original import Original
from largegen.sampling.resume import Checkpoint
from largegen.sampling.rows import VALUE_BYTES, ComputedLatents, Latents
from largegen.sampling.windows import axis_starts

MARK_BYTES = 64  # at the start of a file, which tell what it was made for


def encode_image(
    model: Model,
    original: Original,
    size: tuple[int, int],
    wanted: np.ndarray | None = None,
    checkpoint: Checkpoint | None = None,
) -> Latents:
    """Encode an image of any size in windows that overlap by half.

    Args:
        model: whose autoencoder encodes.
        original: the image.
        size: (H, W) in px, to which it is mirrored at its end; multiples of the autoencoder's factor, and a window or
            more.
        wanted: (H / f, W / f) bool: windows without any of these latents are left out, as zeros. None: all.
        checkpoint: where latents that are too large for the memory are kept, for what; a run that finds them there does
            not encode again. None: all are kept in memory.

    Returns:
        (1, C, H / f, W / f) float32 on the CPU.
    """
    height, width = (side // model.factor for side in size)
    shape, bands = (model.autoencoder.channels, height, width), encode_bands(model, original, size, wanted)
    if checkpoint is None or np.prod(shape) <= stored_canvas.MAX_MEMORY_CANVAS_VALUES:
        return torch.cat(list(bands), 1)[None]
    return _stored(checkpoint.path, hashlib.sha256(checkpoint.fingerprint.encode()).hexdigest(), shape, bands)


def encode_bands(
    model: Model, original: Original, size: tuple[int, int], wanted: np.ndarray | None = None
) -> Iterator[Tensor]:
    """Yield the rows of `encode_image`, (C, n, W / f), from top to bottom without gaps."""
    f, window = model.factor, model.window
    height, width = (side // f for side in size)
    needed = np.ones((height, width), bool) if wanted is None else wanted
    inner = window // 4  # latents at a window's beginning that the window before knows better
    tops, lefts = (axis_starts(side, window, max(1, window // 2)) for side in (height, width))
    held, done = torch.zeros(model.autoencoder.channels, window, width), 0  # rows from the present window's top on
    at_once = decoded_at_once(model)
    for top, following in pairwise([*tops, height]):
        those = [left for left in lefts if needed[top : top + window, left : left + window].any()]
        rows = original.extended(top * f, (top + window) * f, width * f) if those else np.empty(0)
        y = inner if top else 0
        for first in range(0, len(those), at_once):
            batch = those[first : first + at_once]
            parts = np.stack([rows[:, left * f : (left + window) * f] for left in batch])
            for left, part in zip(batch, model.autoencoder.encode(to_network(parts)).cpu(), strict=True):
                x = inner if left else 0
                held[:, y:, left + x : left + window] = part[:, y:, x:]
        ready = height if following == height else following + inner
        yield held[:, done - top : ready - top].clone()
        held = torch.cat([held[:, following - top :], torch.zeros_like(held[:, : following - top])], 1)
        done = ready


def _stored(path: Path, mark: str, shape: tuple[int, int, int], bands: Iterable[Tensor]) -> ComputedLatents:
    """Write rows to a file, unless it is there already, and return what reads them."""
    channels, height, width = shape
    row = channels * width
    if not _is_whole(path, mark, MARK_BYTES + VALUE_BYTES * row * height):
        with atomic(path) as temporary, temporary.open("wb") as file:
            file.write(mark.encode())
            for band in bands:
                file.write(memoryview(band.movedim(1, 0).contiguous().numpy()).cast("B"))

    def rows(top: int, bottom: int) -> Tensor:
        start = MARK_BYTES + VALUE_BYTES * row * top
        values = np.fromfile(path, np.float32, row * (bottom - top), offset=start)
        return torch.from_numpy(values).view(bottom - top, channels, width).movedim(0, 1).contiguous()[None]

    return ComputedLatents((1, *shape), rows)


def _is_whole(path: Path, mark: str, size: int) -> bool:
    if not path.is_file() or path.stat().st_size != size:
        return False
    with path.open("rb") as file:
        return file.read(MARK_BYTES) == mark.encode()
