"""Rows sent between processes, directly from one to another."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from largegen.errors import LargegenError

if TYPE_CHECKING:
    from accelerate import PartialState


@contextmanager
def peer_errors() -> Iterator[None]:
    """Turn the end of another process, on which this one waits, into one line.

    Raises:
        LargegenError: In place of torch.distributed's error.
    """
    try:
        yield
    except LargegenError:
        raise
    except (RuntimeError, ValueError) as error:
        raise LargegenError("another process has ended; the same command resumes, with any number of them") from error


def exchange(
    processes: "PartialState | None",
    sent: Iterable[tuple[int, Tensor]],
    received: Iterable[tuple[int, tuple[int, ...]]],
) -> list[Tensor]:
    """Send and receive float32 tensors, all at once.

    Args:
        processes: accelerate's; None where there is nothing to exchange.
        sent: the process that each goes to, and the tensor.
        received: the process that each comes from, and its shape.

    Returns:
        What was received, on the processes' device.
    """
    sent, received = list(sent), list(received)
    if processes is None or not (sent or received):
        return []
    from torch import distributed

    device = processes.device
    with peer_errors():
        found = [torch.empty(shape, device=device) for _, shape in received]
        ready = [tensor.to(device).contiguous() for _, tensor in sent]
        operations = [
            distributed.P2POp(distributed.isend, tensor, target)
            for (target, _), tensor in zip(sent, ready, strict=True)
        ]
        operations += [
            distributed.P2POp(distributed.irecv, tensor, source)
            for (source, _), tensor in zip(received, found, strict=True)
        ]
        for work in distributed.batch_isend_irecv(operations):
            work.wait()
    return found


def gather_rows(processes: "PartialState", own: Tensor, bounds: np.ndarray) -> Tensor:
    """Give every process the rows of all: strips (C, n, W) -> (C, H, W) on the CPU.

    Args:
        processes: accelerate's.
        own: the strip of this process.
        bounds: the first row of each strip, and that after the last one.
    """
    from torch import distributed

    strips = []
    with peer_errors():
        for rank, count in enumerate(np.diff(bounds)):
            mine = rank == processes.process_index
            strip = own if mine else own.new_empty(own.shape[0], int(count), own.shape[2])
            strip = strip.to(processes.device).contiguous()
            distributed.broadcast(strip, rank)
            strips.append(strip.cpu())
    return torch.cat(strips, 1)
