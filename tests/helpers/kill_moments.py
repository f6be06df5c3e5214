"""Processes of a stored canvas that are killed at a moment: a program that forks them, so that it is quick.

Run as `python -m helpers.kill_moments FOLDER WORLD WHO MOMENT...`: WHO is `one` or `all`, MOMENT the number of a call
of the denoiser or of a write, in the process that is killed. It fails where what resumes is not what was never killed.
"""

import os
import signal
import socket
import sys
from pathlib import Path

import torch

from helpers.denoisers import mixing, run
from largegen.errors import LargegenError
from largegen.runtime.distributed import process_group
from largegen.sampling import memory_canvas, rows, stored_canvas, walk

OPTIONS = {"windows": "shift", "name": "dpm++", "shape": (3, 60, 28), "batch_size": 2, "steps": 3}
ENDED, OTHER_ENDED = 0, 7


def main(folder: Path, world: int, who: str, moments: list[int]) -> None:
    walk.BAND_VALUES = memory_canvas.BAND_VALUES = 5 * 3 * 48
    stored_canvas.MAX_MEMORY_CANVAS_VALUES = 0
    whole = run(**OPTIONS)
    for moment in moments:
        path = folder / str(moment)
        codes = fork_all(path, world, who, moment)
        killed = [code for code in codes if code == -signal.SIGKILL]
        assert killed, f"moment {moment}: nobody came so far, {codes}"
        assert set(codes) <= {-signal.SIGKILL, OTHER_ENDED, ENDED}, f"moment {moment}: {codes}"
        again = fork_all(path, 1 if moment % 2 else world, who, None, whole)
        assert set(again) == {ENDED}, f"moment {moment}: {again} after {codes}"


def fork_all(path: Path, world: int, who: str, moment: int | None, whole: torch.Tensor | None = None) -> list[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(world):
        child = os.fork()
        if not child:
            os._exit(sampled(path, rank, world, port, moment if who == "all" or rank == world - 1 else None, whole))
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def sampled(path: Path, rank: int, world: int, port: int, moment: int | None, whole: torch.Tensor | None) -> int:
    """Sample in a process of its own; what it exits with."""
    try:
        state = None
        if world > 1:
            group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
            group |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            os.environ.update({name: str(value) for name, value in group.items()})
            state = process_group(torch.device("cpu"))
        left = iter(range(moment if moment is not None else 10**9))

        def kill_in_time() -> None:
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        written = rows.FileRows.write

        def write(self: rows.FileRows, *arguments: object) -> None:
            kill_in_time()
            written(self, *arguments)

        def denoise(*arguments: torch.Tensor) -> torch.Tensor:
            kill_in_time()
            return mixing(*arguments)

        rows.FileRows.write = write
        found = run(denoise, **OPTIONS, checkpoint=path, save_every_s=0, processes=state)
        assert whole is None or torch.equal(found, whole)
        return ENDED
    except LargegenError as error:
        assert "another process" in str(error), error
        return OTHER_ENDED
    except BaseException as error:  # the child must not go on as its parent
        print(f"rank {rank}, moment {moment}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], [int(moment) for moment in sys.argv[4:]])
