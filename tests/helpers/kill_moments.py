"""Processes of a stored canvas that are killed at a moment.

Run as `python -m helpers.kill_moments FOLDER MOMENT...`, for each of CASES: MOMENT is the number of a call of the
denoiser or of a write, in the process that is killed. It fails where what resumes is not what was never killed.
"""

import os
import signal
import sys
from pathlib import Path

import torch

from helpers.denoisers import mixing, run
from helpers.forked import fork_group
from largegen.errors import LargegenError
from largegen.sampling import memory_canvas, rows, stored_canvas, walk

OPTIONS = {"windows": "shift", "name": "dpm++", "shape": (3, 60, 28), "batch_size": 2, "steps": 3}
ENDED, OTHER_ENDED = 0, 7
CASES = [(1, "all"), (2, "one"), (2, "all")]  # how many processes, and which of them are killed


def main(folder: Path, moments: list[int]) -> None:
    walk.BAND_VALUES = memory_canvas.BAND_VALUES = 5 * 3 * 48
    stored_canvas.MAX_MEMORY_CANVAS_VALUES = 0
    whole = run(**OPTIONS)
    for world, who in CASES:
        for moment in moments:
            survive(folder / f"{world}-{who}-{moment}", world, who, moment, whole)


def survive(path: Path, world: int, who: str, moment: int, whole: torch.Tensor) -> None:
    def killed(rank: int, state: object) -> int:
        return sampled(path, state, moment if who == "all" or rank == world - 1 else None)

    def again(rank: int, state: object) -> int:
        return sampled(path, state, None, whole)

    codes = fork_group(world, killed)
    assert -signal.SIGKILL in codes, f"{path.name}: nobody came so far, {codes}"
    assert set(codes) <= {-signal.SIGKILL, OTHER_ENDED, ENDED}, f"{path.name}: {codes}"
    found = fork_group((world, 1, 2, 3)[moment // 2 % 4], again)
    assert set(found) == {ENDED}, f"{path.name}: {found} after {codes}"


def sampled(path: Path, state: object, moment: int | None, whole: torch.Tensor | None = None) -> int:
    """Sample, as far as a moment; what the process exits with."""
    left = iter(range(10**9 if moment is None else moment))

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
    try:
        found = run(denoise, **OPTIONS, checkpoint=path, save_every_s=0, processes=state)
    except LargegenError as error:
        assert "another process" in str(error), error
        return OTHER_ENDED
    assert whole is None or torch.equal(found, whole)
    return ENDED


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(moment) for moment in sys.argv[2:]])
