"""Several processes share a canvas in strips."""

import os
import subprocess
import sys

import pytest
import torch
from helpers import ROOT, TESTS
from helpers.denoisers import run

from largegen.sampling.plan import plan_canvas
from largegen.sampling.settings import Sampling
from largegen.sampling.strips import Strips, exchanged_bytes

OPTIONS = {
    "overlap": {"eta": 0.3, "batch_size": 3},
    "shift": {"windows": "shift", "eta": 0.3, "batch_size": 3},
    "few steps": {"windows": "shift", "name": "lcm", "batch_size": 3},
    "tall": {"windows": "shift", "name": "dpm++", "shape": (3, 150, 28), "batch_size": 2},
    "background": {"windows": "shift", "name": "unipc", "shape": (3, 90, 40), "batch_size": 2, "skip": slice(30, 70)},
}

IN_A_STEP = {"shape": (3, 400, 28), "steps": 1, "batch_size": 3}  # 49 batches

PROGRAM = """
import sys
from pathlib import Path

import torch
from helpers.denoisers import run
from helpers.forked import fork_group
from sampling.test_canvas_processes import IN_A_STEP, in_small_bands, killed_and_resumed, killed_in_a_step, sampled

one = sampled() | {"killed": run(name="unipc", batch_size=3)}
for world in (2, 4):
    path = Path(sys.argv[1]) / str(world)

    def work(rank, state):
        found = sampled(processes=state) | {"killed": killed_and_resumed(path, state)}
        return sum(not torch.equal(found[name], one[name]) for name in one)

    assert fork_group(world, work) == [0] * world
    assert torch.equal(run(name="unipc", batch_size=3, checkpoint=path), one["killed"])  # by one, what several began

in_small_bands()
whole = run(**IN_A_STEP)
path = Path(sys.argv[1]) / "step"
assert fork_group(2, lambda rank, state: killed_in_a_step(path, state, 20)) == [20, 20]
assert max(fork_group(2, lambda rank, state: killed_in_a_step(path, state, 99, whole))) <= 10  # of 25
path = Path(sys.argv[1]) / "by one"
assert fork_group(1, lambda rank, state: killed_in_a_step(path, state, 40)) == [40]
assert max(fork_group(2, lambda rank, state: killed_in_a_step(path, state, 99, whole))) <= 14
"""


def sampled(**more):
    """The canvas of each of OPTIONS, in memory."""
    found = {}
    for name, options in OPTIONS.items():
        options = dict(options)
        if rows := options.pop("skip", None):
            options["skip"] = torch.zeros(options["shape"][1:], dtype=torch.bool)
            options["skip"][rows] = True
        found[name] = run(**options, **more)
    return found


def killed_and_resumed(path, state):
    """A canvas in a file, of processes that fail at some step, and come again."""
    from helpers.denoisers import Killed, mixing

    def denoise(latents, timestep, contexts):
        if timestep < 500:
            raise Killed
        return mixing(latents, timestep, contexts)

    options = {"name": "unipc", "batch_size": 3, "processes": state, "checkpoint": path, "save_every_s": 0}
    with pytest.raises(Killed):
        run(denoise, **options)
    state.wait_for_everyone()
    calls = []
    found = run(lambda *given: calls.append(1) or mixing(*given), **options)
    assert len(calls) < 5 * 3
    return found


def in_small_bands():
    from largegen.sampling import memory_canvas, stored_canvas, walk

    walk.BAND_VALUES = memory_canvas.BAND_VALUES = 5 * 3 * 28
    stored_canvas.MAX_MEMORY_CANVAS_VALUES = 0


def killed_in_a_step(path, state, moment, whole=None):
    """How often the denoiser was called, which fails at a moment; and 100 for another image than `whole`."""
    from helpers.denoisers import Killed, mixing

    calls = []

    def denoise(*given):
        if len(calls) == moment:
            raise Killed
        calls.append(1)
        return mixing(*given)

    try:
        found = run(denoise, **IN_A_STEP, processes=state, checkpoint=path, save_every_s=1e6)
    except Killed:
        return len(calls)
    return len(calls) if torch.equal(found, whole) else 100


def test_same_image_for_several_processes_also_when_killed(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    program = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(program, cwd=TESTS, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("windows", ["overlap", "shift"])
def test_strips_hold_about_as_many_windows_each_and_exchange_halos_alone(windows):
    sampling = Sampling(steps=6, windows=windows, stride=8 if windows == "overlap" else 0)
    mask = torch.zeros(640, 200, dtype=torch.bool).numpy()
    mask[100:500] = True
    plan = plan_canvas((4, 640, 200), sampling, 16, background=mask)
    for step in range(6):
        shares = [Strips(plan, 4, rank, 4).share(step) for rank in range(4)]
        counts = [sum(map(len, share.batches)) for share in shares]
        assert sum(counts) == len(plan.places[step]) and max(counts) - min(counts) <= 8
        assert [p for share in shares for batch in share.batches for p in batch] == plan.places[step]
    whole = 4 * 4 * plan.around[0] * plan.around[1]
    assert 0 < exchanged_bytes(plan, 4, 2) < exchanged_bytes(plan, 4, 4) < whole / 2
    assert exchanged_bytes(plan, 4, 1) == 0
