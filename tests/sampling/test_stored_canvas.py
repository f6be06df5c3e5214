"""A canvas walked in bands, in memory or in a file: the same result bit for bit, and a checkpoint at any time."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import ROOT, TESTS
from helpers.denoisers import Killed, kill_at, mixing, run
from helpers.disk import small_disk

from largegen.errors import LargegenError, OutputError
from largegen.models.linear_decoder import LinearDecoder
from largegen.sampling import stored_canvas
from largegen.sampling.keep import Keep
from largegen.sampling.rows import FileRows
from largegen.sampling.stored_canvas import StoredCanvas
from largegen.sampling.zoom.guide import GuideConstraint

TALL = {"shape": (3, 88, 28), "batch_size": 5}


def guide(shrink):
    """A guide of an image whose latents stand for 8 px."""
    noise = torch.Generator().manual_seed(0)
    decoder = LinearDecoder(torch.randn(3, 8, 8, 3, generator=noise), torch.randn(3, 8, 8, generator=noise))
    image = torch.rand(1, 3, 88 * 8 // shrink, 28 * 8 // shrink, generator=noise) * 2 - 1
    return GuideConstraint(decoder, image, shrink)


WAYS = {
    "overlap": {"windows": "overlap"},
    "overlap, eta 1": {"windows": "overlap", "eta": 1.0},
    "shift": {"windows": "shift"},
    "shift, eta 0.5": {"windows": "shift", "eta": 0.5},
    "dpm++": {"windows": "shift", "name": "dpm++"},
    "unipc": {"windows": "shift", "name": "unipc"},
    "lcm": {"windows": "shift", "name": "lcm"},
    "unipc, overlap": {"windows": "overlap", "name": "unipc"},
    "background": {"windows": "shift", "skip": True},
    "background, overlap": {"windows": "overlap", "skip": True, "name": "dpm++"},
    "corrected": {"windows": "shift", "correct": lambda clean: clean + clean.mean() / 10, "correct_steps": 2},
    "kept": {
        "windows": "shift",
        "correct": Keep(torch.ones(1, 3, 88, 28), 99 * (torch.arange(28) < torch.arange(88)[:, None])),
    },
    "guided": {"windows": "shift", "correct": guide(2), "correct_steps": 3},
    "guided from afar": {"windows": "shift", "correct": guide(16), "correct_steps": 3},
    "last steps": {"windows": "overlap", "last_steps": 3, "latents": torch.ones(1, 3, 88, 28)},
    "small": {"windows": "shift", "shape": (3, 12, 40)},
    "low": {"windows": "shift", "shape": (3, 17, 24)},
}


def options_of(way):
    options = TALL | WAYS[way]
    if options.pop("skip", False):
        mask = torch.zeros(88, 28, dtype=torch.bool)
        mask[30:70], mask[:, 20:] = True, True
        options |= {"skip": mask, "skip_latent": torch.tensor([0.5, -1.0, 2.0])}
    return options


@pytest.fixture
def in_bands(monkeypatch):
    """Finish a few rows at once."""
    monkeypatch.setattr("largegen.sampling.walk.BAND_VALUES", 7 * 3 * 40)
    monkeypatch.setattr("largegen.sampling.memory_canvas.BAND_VALUES", 7 * 3 * 40)


@pytest.fixture
def in_file(in_bands, monkeypatch):
    """Keep every canvas in a file."""
    monkeypatch.setattr(stored_canvas, "MAX_MEMORY_CANVAS_VALUES", 0)


@pytest.mark.parametrize("way", WAYS)
def test_bands_make_the_same_image(way, request):
    whole = run(**options_of(way))
    request.getfixturevalue("in_bands")
    assert torch.equal(run(**options_of(way)), whole)


@pytest.mark.parametrize("way", WAYS)
def test_a_file_makes_the_same_image(way, request, tmp_path):
    whole = run(**options_of(way))
    request.getfixturevalue("in_file")
    assert torch.equal(run(**options_of(way), checkpoint=tmp_path / "a"), whole)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "a.rows"}


@pytest.mark.parametrize("way", ["overlap, eta 1", "shift, eta 0.5", "unipc", "lcm", "background"])
@pytest.mark.parametrize("killed_call", [0, 1, 2, 5, 9, 12])
def test_a_killed_run_loses_a_band_at_most(way, killed_call, request, tmp_path):
    whole = run(**options_of(way))
    calls = []

    def counting(*arguments):
        calls.append(1)
        return mixing(*arguments)

    run(counting, **options_of(way))
    request.getfixturevalue("in_file")
    with pytest.raises(Killed):
        run(kill_at(killed_call), **options_of(way), checkpoint=tmp_path / "a")
    in_all = len(calls)
    calls.clear()
    assert torch.equal(run(counting, **options_of(way), checkpoint=tmp_path / "a"), whole)
    # What overhangs into the rows to come is done again, and so are the first windows of a ring, which close it.
    assert len(calls) <= in_all - killed_call + 5
    calls.clear()
    assert torch.equal(run(counting, **options_of(way), checkpoint=tmp_path / "a"), whole) and not calls


def test_ctrl_c_again_and_again_loses_no_more(tmp_path, in_file, monkeypatch):
    """In the network, in a write of rows, and in one of the note that says what is written."""
    options, saving = options_of("unipc"), {"checkpoint": tmp_path / "a", "save_every_s": 0}
    whole = run(**options)

    def interrupted(original, after):
        calls = iter(range(after))

        def call(*arguments):
            if next(calls, None) is None:
                raise KeyboardInterrupt
            return original(*arguments)

        return call

    steps = []
    for after, (kind, name) in [(9, (None, None)), (40, (FileRows, "write")), (8, (StoredCanvas, "_write"))]:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            if kind:
                patch.setattr(kind, name, interrupted(getattr(kind, name), after))
            run(mixing if kind else interrupted(mixing, after), **options, **saving)
        note = json.loads((tmp_path / "a").read_text())
        steps.append((note["step"], note["rows"]))
    assert steps == sorted(steps) and steps[0] > (0, 0)
    assert torch.equal(run(**options, **saving), whole)


def test_rows_count_as_written_after_a_power_cut_only_where_they_were_synced(in_file, tmp_path, monkeypatch):
    whole = run(**options_of("overlap"))
    saving = {"checkpoint": tmp_path / "a", "save_every_s": 1e6}
    with pytest.raises(Killed):
        run(kill_at(5), **options_of("overlap"), **saving)
    note = json.loads((tmp_path / "a").read_text())
    assert note["rows"] > 0 and note["synced"] == 0
    monkeypatch.setattr(stored_canvas, "_machine", lambda: "another boot")
    rows = np.fromfile(tmp_path / "a.rows", np.uint8)
    half = 4096 + (rows.size - 4096) // 2
    span = slice(half, None) if note["generation"] == 0 else slice(4096, half)
    rows[span] = 0xFF  # the next generation is lost
    rows.tofile(tmp_path / "a.rows")
    assert torch.equal(run(**options_of("overlap"), **saving), whole)


def test_a_run_in_memory_goes_on_in_a_file(tmp_path, request):
    options, calls = options_of("unipc"), []

    def counting(*arguments):
        calls.append(1)
        return mixing(*arguments)

    whole = run(counting, **options)
    in_all = len(calls)
    with pytest.raises(Killed):
        run(kill_at(8), **options, checkpoint=tmp_path / "a", save_every_s=0)
    request.getfixturevalue("in_file")
    calls.clear()
    assert torch.equal(run(counting, **options, checkpoint=tmp_path / "a"), whole)
    assert 0 < len(calls) < in_all


def test_a_run_in_a_file_goes_on_in_it(tmp_path, in_file, monkeypatch):
    options = options_of("shift")
    with pytest.raises(Killed):
        run(kill_at(8), **options, checkpoint=tmp_path / "a")
    monkeypatch.setattr(stored_canvas, "MAX_MEMORY_CANVAS_VALUES", 10**9)
    assert torch.equal(run(**options, checkpoint=tmp_path / "a"), run(**options))


@pytest.mark.parametrize("damage", ["cut", "gone", "other", "note", "settings"])
def test_a_damaged_file_is_left_aside(tmp_path, in_file, caplog, damage):
    options = options_of("shift")
    run(**options, checkpoint=tmp_path / "a")
    rows = tmp_path / "a.rows"
    if damage == "cut":
        rows.write_bytes(rows.read_bytes()[:-1])
    elif damage == "gone":
        rows.unlink()
    elif damage == "other":
        rows.write_bytes(b"x" * rows.stat().st_size)
    elif damage == "note":
        (tmp_path / "a").write_text('{"format": "largegen-canvas"')
    else:
        options["seed"] = 1
    assert torch.equal(run(**options, checkpoint=tmp_path / "a"), run(**options))
    assert "starting again" in caplog.text


def test_nan_in_a_band_is_an_error(tmp_path, in_file):
    with pytest.raises(LargegenError, match="step 1 of 5"):
        run(lambda latents, t, c: latents * float("nan"), **TALL, checkpoint=tmp_path / "a")


def test_a_disk_without_room_for_the_file_is_said_at_the_start(tmp_path, in_file):
    called = []
    with small_disk(tmp_path / "disk", 200) as folder:
        with pytest.raises(OutputError, match="no space left on the disk") as caught:
            run(lambda *given: called.append(1), **options_of("unipc"), checkpoint=folder / "a")
        assert "\n" not in str(caught.value) and not list(folder.iterdir()) and not called


MEMORY = """
import os, resource, sys
from pathlib import Path
from helpers.denoisers import pointwise, no_contexts, TRAIN
from largegen.sampling import memory_canvas, stored_canvas, walk
from largegen.sampling.canvas import sample_canvas
from largegen.sampling.resume import Checkpoint
from largegen.sampling.settings import Sampling

stored_canvas.MAX_MEMORY_CANVAS_VALUES = 0
walk.BAND_VALUES = memory_canvas.BAND_VALUES = 2**16
for number, height in enumerate((2048, 8192) * 2):
    child = os.fork()
    if not child:
        sampling = Sampling(steps=2, windows="overlap", stride=64, scheduler="unipc", batch_size=8, guidance=1.0)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        sample_canvas(pointwise(0.0, 1.0), no_contexts, TRAIN, (4, height, 128), sampling, window=64,
                      checkpoint=Checkpoint(Path(sys.argv[1]) / str(number)))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_memory_does_not_grow_with_the_height(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    program = [sys.executable, "-c", MEMORY, str(tmp_path)]
    printed = subprocess.run(program, env=environment, cwd=TESTS, capture_output=True, text=True, check=True).stdout
    found = list(map(int, printed.split()))  # kB, twice each: the least is without the allocator's whims
    assert min(found[1::2]) - min(found[::2]) < 8 * 1024  # one generation of one of four fields is 12 MB larger
