"""Gaussian noise keyed by (seed, step, place): the same for any batch size, device count or order of work."""

import numpy as np
import torch

BLOCK = 8  # side of the square of latents that shares a key
INITIAL = -1  # the step whose noise is the canvas that sampling starts from
SEAM = -2  # the step whose noise a finished canvas gets before the pass against seams
TOKENS = -3  # the step whose noise the tokens of single patches start from
GOING_ON = -(2**16)  # steps below: the noise that a grid gets before it is harmonised with what is known of it
INVERSION = -(2**32)  # steps below: the noise under which the condition of an image is sought


def noise(seed: int, step: int, top: int, left: int, height: int, width: int, channels: int) -> torch.Tensor:
    """Draw the standard normal noise of one step on a rectangle of the canvas.

    It is cut from one endless field: a value depends on (seed, step, channel, row, column) and nothing else.
    Each block of latents is a stream of the counter-based generator Philox, whose raw output NumPy keeps
    stable over its versions; Box and Muller's transform makes one normal value of each 64-bit word.

    Args:
        seed: of the field.
        step: `INITIAL` for the noise that sampling starts from, 0 and up for what a sampler's step adds.
        top: of the rectangle, in latents; may be negative.
        left: of the rectangle, in latents; may be negative.
        height: of the rectangle, in latents.
        width: of the rectangle, in latents.
        channels: of the latents.

    Returns:
        (1, channels, height, width) float32.
    """
    key = np.array([seed % 2**64, step % 2**64], np.uint64)
    rows = range(top // BLOCK, (top + height - 1) // BLOCK + 1)
    cols = range(left // BLOCK, (left + width - 1) // BLOCK + 1)
    field = np.empty((channels, len(rows), BLOCK, len(cols), BLOCK), np.float32)
    for i, row in enumerate(rows):
        counters = [np.array([0, row % 2**64, col % 2**64, 0], np.uint64) for col in cols]
        words = [np.random.Philox(key=key, counter=c).random_raw(channels * BLOCK**2) for c in counters]
        normal = _normal(np.stack(words)).reshape(len(cols), channels, BLOCK, BLOCK)
        field[:, i] = normal.transpose(1, 2, 0, 3)  # blocks => one row of blocks
    whole = field.reshape(channels, len(rows) * BLOCK, len(cols) * BLOCK)
    y, x = top - rows.start * BLOCK, left - cols.start * BLOCK
    return torch.from_numpy(whole[None, :, y : y + height, x : x + width].copy())


def seed_from(generator: torch.Generator) -> int:
    """Draw a seed for `noise` from a torch generator: each call gives another."""
    return int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))


def _normal(words: np.ndarray) -> np.ndarray:
    """Make one standard normal value, float64, of each uint64: the upper half is the radius, the lower the angle."""
    radius = np.sqrt(-2 * np.log(((words >> np.uint64(32)) + np.uint64(1)) * 2.0**-32))
    normal: np.ndarray = radius * np.cos((words & np.uint64(0xFFFFFFFF)) * (2 * np.pi * 2.0**-32))
    return normal
