"""Several processes share the windows of one canvas."""

import os
import subprocess
import sys

import torch
from helpers import ROOT, TESTS
from helpers.denoisers import run

TWO_PROCESSES = """
import sys
sys.path.insert(0, {folder!r})
import torch
from largegen.runtime.distributed import process_group
from helpers.denoisers import Killed, mixing, run

state = process_group(torch.device("cpu"))
assert state.num_processes == 2
for windows in ("overlap", "shift"):
    canvas = run(windows=windows, eta=0.3, batch_size=3, processes=state)
    torch.save(canvas, f"{out}/{{windows}}-{{state.process_index}}.pt")


def denoise(latents, timestep, contexts):
    if timestep < 500:
        raise Killed
    return mixing(latents, timestep, contexts)


saving = dict(checkpoint="{out}/run.safetensors", save_every_s=0)
options = dict(name="unipc", batch_size=3, processes=state, **saving)
try:
    run(denoise, **options)
except Killed:
    torch.save(run(**options), f"{out}/killed-{{state.process_index}}.pt")
"""


def test_same_image_for_two_processes_also_when_killed(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES.format(folder=str(TESTS), out=tmp_path))
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)],
        check=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        cwd=ROOT,
    )
    one = {
        "overlap": run(eta=0.3, batch_size=3),
        "shift": run(windows="shift", eta=0.3, batch_size=3),
        "killed": run(name="unipc", batch_size=3),
    }
    for name, canvas in one.items():
        for rank in (0, 1):
            assert torch.equal(torch.load(tmp_path / f"{name}-{rank}.pt"), canvas)
