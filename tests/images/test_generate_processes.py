"""An image's file made by several processes, and the memory that one takes."""

import os
import subprocess
import sys

import pytest
from helpers import ROOT, TESTS

PROGRAM = """
import json
import os
import resource
import signal
import sys
from pathlib import Path

import numpy as np
from helpers.forked import fork_group
from helpers.models import flat_grid, save_encoder, save_model

from largegen import load_model
from largegen.conditioning.area import ImageArea
from largegen.errors import LargegenError
from largegen.images.generate_file import estimate_generate, generate_file
from largegen.models.autoencoder import Autoencoder
from largegen.models.model import Model
from largegen.runtime import lock
from largegen.sampling import stored_canvas
from largegen.sampling.generate import resolve_defaults
from largegen.sampling.settings import Sampling
from largegen.slides.slide import open_slide

folder = Path(sys.argv[1])
model = load_model(save_model(folder / "model", save_encoder(folder / "encoder")), "cpu", "fp32")
grid = flat_grid(model, 6, 4, tissue=np.array([[0] * 4, *[[1] * 4] * 5], bool))
area = ImageArea(256, 384, 0, 0, 6, 4, full=True)


def pixels(name):
    with open_slide(folder / name) as slide:
        return slide.read(0, 0, slide.width, slide.height)


def make(name, failing=None):
    def work(rank, state):
        if failing:
            kind, attribute, other = failing
            original, calls = getattr(kind, attribute), iter(range(3))

            def fail(*arguments):
                if rank == other and next(calls, None) is None:
                    raise LargegenError("gave up")
                return original(*arguments)

            setattr(kind, attribute, fail)
        try:
            generate_file(model, grid, area, folder / name, Sampling(steps=3, batch_size=3), save_every_s=0)
        except LargegenError as error:
            print(rank, error, flush=True)
            return 7
        return 0

    return work


assert fork_group(1, make("one.png")) == [0]
assert fork_group(3, make("three.png")) == [0, 0, 0]
for failing in ((Model, "eps", 1), (Autoencoder, "decode", 1), (Autoencoder, "decode", 0)):
    assert fork_group(2, make("again.png", failing)) == [7, 7], failing
    assert sorted(p.name for p in folder.glob("*again*")) == [".again.png.partial", ".again.png.partial.rows"]
assert fork_group(1, make("again.png")) == [0]


def interrupted_twice(rank, state):
    # by Ctrl-C in the network, and again while the lock is let go
    work, owner_of, calls = make("twice.png"), lock.owner_of, iter(range(5))

    def eps(*arguments, original=Model.eps):
        if next(calls, None) is None:
            lock.owner_of = lambda file: os.kill(os.getpid(), signal.SIGINT) or owner_of(file)
            os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments)

    Model.eps, stored_canvas.MAX_MEMORY_CANVAS_VALUES = eps, 0
    try:
        return work(rank, state)
    except KeyboardInterrupt:
        return 130


assert fork_group(1, interrupted_twice) == [130]
assert (folder / ".twice.png.partial.rows").exists() and (folder / "twice.png.lock").exists()
assert fork_group(1, make("twice.png")) == [0] and not (folder / "twice.png.lock").exists()


def in_child(work):
    read, write = os.pipe()
    if not os.fork():
        os.write(write, json.dumps(work()).encode())
        os._exit(0)
    os.wait()
    return json.loads(os.read(read, 1000))


def memory_of(width):
    # MB that are predicted and taken for a wide image, nearly all glass
    wide = ImageArea(width, 768, 0, 0, 12, width // 64, full=True)
    tissue = np.zeros((12, width // 64), bool)
    tissue[0, :2] = True
    sampling, out = resolve_defaults(Sampling(steps=1, batch_size=2), model), folder / f"{width}.tif"
    settings = flat_grid(model, *tissue.shape, tissue=tissue), wide, out, sampling

    def taken():
        out.unlink(missing_ok=True)
        generate_file(model, *settings)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6

    predicted = in_child(lambda: estimate_generate(model, wide, tissue, sampling, out)["memory_mb"])
    return predicted, min(in_child(taken) for _ in range(3))  # the allocator may keep more than is needed


print("memory", *memory_of(2048), *memory_of(24576))
for name in ("three.png", "again.png", "twice.png"):  # libvips' threads do not survive a fork: all of these are over
    assert np.array_equal(pixels("one.png"), pixels(name)), name
assert not list(folder.glob(".*"))
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path_factory.mktemp("made"))],
        cwd=TESTS,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_strips_and_pieces_make_the_image_of_one_process_and_failures_end_all(printed):
    said = [line for line in printed if not line.startswith("memory")]
    assert sum("gave up" in line for line in said) == 4 and len(said) == 6, printed


def test_a_dry_run_knows_the_memory_that_a_wider_image_takes(printed):
    """Beside what networks and libraries take, which a process of its own has in full."""
    (line,) = (line for line in printed if line.startswith("memory"))
    predicted, taken, predicted_wide, taken_wide = map(float, line.split()[1:])
    assert predicted_wide - predicted == pytest.approx(taken_wide - taken, rel=0.2)
