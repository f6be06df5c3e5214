"""Decoding by several processes: each decodes every n-th piece of the image, and the main one is given all, in order.

No process holds more than a piece, and the image goes on to its file while it is decoded.
"""

from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from largegen.errors import LargegenError
from largegen.sampling.exchange import peer_errors

if TYPE_CHECKING:
    from accelerate import PartialState

Bands = Iterator[tuple[int, np.ndarray]]  # (y0_px, (h, width, 3) uint8), top to bottom
DecodeBetween = Callable[[tuple[int, int]], Bands]  # rows of latents -> the bands of their pixels

PIECE_STRIDES = 8  # strides of the decoder's windows in a piece: as it decodes one row of windows more, that costs 1/8
GO, STOP = 1, 0  # what the main process says to one that has a piece ready
FAILED = -1  # what that one says in place of the piece's height


def pieces_of(height: int, stride: int, world: int, most: int = PIECE_STRIDES) -> list[tuple[int, int]]:
    """Cut rows of latents into pieces of whole strides, at least one for each process where there are so many.

    Args:
        height: of the image, in latents.
        stride: between decoded windows, in latents.
        world: number of processes.
        most: strides in a piece.
    """
    strides = -(-height // stride)
    side = stride * min(most, max(1, -(-strides // world)))
    return [(top, min(top + side, height)) for top in range(0, height, side)]


def bands_in_turn(
    processes: "PartialState", pieces: list[tuple[int, int]], decode: DecodeBetween
) -> Generator[tuple[int, np.ndarray], None, None]:
    """Yield the whole image's bands in the main process, while the others are in `serve_bands`.

    Args:
        processes: accelerate's.
        pieces: from `pieces_of`.
        decode: makes the bands of a piece.

    Raises:
        LargegenError: where another process fails.
    """
    waiting = {rank: len(pieces[rank :: processes.num_processes]) for rank in range(1, processes.num_processes)}
    try:
        for number, piece in enumerate(pieces):
            rank = number % processes.num_processes
            if rank == 0:
                yield from decode(piece)
            else:
                waiting[rank] -= 1  # told to go, it is not told to stop
                yield _receive(processes, rank)
    finally:
        for rank, count in waiting.items():
            if count > 0:
                _say(processes, [STOP], rank)


def serve_bands(processes: "PartialState", pieces: list[tuple[int, int]], decode: DecodeBetween) -> None:
    """Decode this process' pieces and give them to the main one, until it has all or wants no more."""
    for piece in pieces[processes.process_index :: processes.num_processes]:
        try:
            bands = list(decode(piece))
        except Exception:
            if _hear(processes, 1) == [GO]:
                _say(processes, [0, FAILED, 0])
            raise
        if _hear(processes, 1) != [GO]:
            return
        pixels = np.concatenate([band for _, band in bands])
        _say(processes, [bands[0][0], *pixels.shape[:2]])
        _send(processes, torch.from_numpy(pixels))


def _receive(processes: "PartialState", rank: int) -> tuple[int, np.ndarray]:
    from torch import distributed

    _say(processes, [GO], rank)
    y0, height, width = _hear(processes, 3, rank)
    if height == FAILED:
        raise LargegenError("another process failed while decoding")
    with peer_errors():
        pixels = torch.empty(height, width, 3, dtype=torch.uint8, device=processes.device)
        distributed.recv(pixels, rank)
        return y0, pixels.cpu().numpy()


def _say(processes: "PartialState", numbers: list[int], rank: int = 0) -> None:
    _send(processes, torch.tensor(numbers), rank)


def _send(processes: "PartialState", tensor: torch.Tensor, rank: int = 0) -> None:
    from torch import distributed

    with peer_errors():
        distributed.send(tensor.to(processes.device), rank)


def _hear(processes: "PartialState", count: int, rank: int = 0) -> list[int]:
    from torch import distributed

    with peer_errors():
        numbers = torch.empty(count, dtype=torch.int64, device=processes.device)
        distributed.recv(numbers, rank)
        return [int(number) for number in numbers]
