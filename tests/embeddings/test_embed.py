"""Embedding a slide: which tiles, what survives a kill, and what is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import ROOT, TESTS
from helpers.embeddings import MeanColour, embed, leftovers

from largegen.embeddings import partial
from largegen.embeddings.embed import plan_tiles
from largegen.embeddings.file import EmbeddingFile, read_grid
from largegen.embeddings.options import EmbedOptions
from largegen.errors import InputError, LockedError, ModelError, OutputError
from largegen.runtime.lock import lock
from largegen.slides.slide import open_slide


def test_the_file_holds_the_tissue_and_its_embeddings(slide, tmp_path):
    path = embed(slide, tmp_path)
    assert path == tmp_path / "case.h5" and leftovers(tmp_path) == ["case.h5"]
    _, keep = plan_tiles(slide, 1.0, EmbedOptions(tile_px=100))
    assert 0 < keep.sum() < keep.size
    file = EmbeddingFile(path)
    assert file.count == keep.sum()
    for (x, y), found in list(zip(file.coords(), file.features(), strict=True))[::7]:
        expected = MeanColour().encode(slide.read(int(x), int(y), 100, 100)[None])[0]
        np.testing.assert_array_equal(found, expected)


def test_a_region_equals_that_part_of_the_whole(slide, tmp_path):
    whole = read_grid(embed(slide, tmp_path, tissue_filter=False))
    path = embed(slide, tmp_path, tissue_filter=False, region=(2, 3, 4, 5))
    part = read_grid(path)
    assert path.name.startswith("case.2-3-4x5.") and path.suffix == ".h5"
    np.testing.assert_allclose(part.features, whole.crop(2, 3, 4, 5).features, rtol=1e-6)
    assert part.origin_xy == (300, 200)
    assert embed(slide, tmp_path, region=(2, 3, 4, 5)) != path  # other settings, other file
    with pytest.raises(InputError, match="do not lie in its grid of 10x13"):
        embed(slide, tmp_path, region=(8, 0, 3, 1))


def test_the_encoder_sees_full_batches(slide, tmp_path):
    encoder = MeanColour()
    count = EmbeddingFile(embed(slide, tmp_path, encoder)).count
    background, *batches = encoder.batches
    assert background == 1
    assert batches == [8] * (count // 8) + [count % 8] * (count % 8 > 0)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_workers_do_not_change_the_result(slide, tmp_path, workers):
    expected = EmbeddingFile(embed(slide, tmp_path / "a")).features()
    found = EmbeddingFile(embed(slide, tmp_path / "b", workers=workers)).features()
    np.testing.assert_array_equal(found, expected)


def test_reading_ahead_is_bounded(slide, tmp_path, monkeypatch):
    read, ahead = 0, []
    original = type(slide).read

    def counting(self, *place):
        nonlocal read
        read += 1
        return original(self, *place)

    class Watching(MeanColour):
        def encode(self, images):
            time.sleep(0.02)
            ahead.append(read - sum(self.batches))
            return super().encode(images)

    monkeypatch.setattr(type(slide), "read", counting)
    embed(slide, tmp_path, Watching(), batch_size=4, tissue_threshold=0.1)
    assert max(ahead) <= 3 * 4 + 2 + 1


def test_an_interrupted_run_goes_on_to_the_same_file(slide, tmp_path, monkeypatch):
    monkeypatch.setattr(partial, "FLUSH_S", 0.0)
    whole = embed(slide, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        embed(slide, tmp_path / "part", MeanColour(fail_after=4))
    assert leftovers(tmp_path / "part") == ["case.h5.partial"]
    second = MeanColour()
    path = embed(slide, tmp_path / "part", second)
    assert sum(second.batches) - 1 == EmbeddingFile(whole).count - 4 * 8
    assert leftovers(tmp_path / "part") == ["case.h5"]
    for name in ("features", "coords"):
        expected = getattr(EmbeddingFile(whole), name)()
        np.testing.assert_array_equal(getattr(EmbeddingFile(path), name)(), expected)


def test_an_interrupt_by_the_user_loses_nothing(slide, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        embed(slide, tmp_path, MeanColour(fail_after=4))  # well within FLUSH_S
    second = MeanColour()
    count = EmbeddingFile(embed(slide, tmp_path, second)).count
    assert sum(second.batches) - 1 == count - 4 * 8


def test_other_settings_start_over(slide, tmp_path, monkeypatch):
    monkeypatch.setattr(partial, "FLUSH_S", 0.0)
    with pytest.raises(KeyboardInterrupt):
        embed(slide, tmp_path, MeanColour(fail_after=4))
    encoder = MeanColour()
    count = EmbeddingFile(embed(slide, tmp_path, encoder, downsample=0.9)).count
    assert sum(encoder.batches) - 1 == count


def test_a_block_that_lost_its_content_is_computed_again(slide, tmp_path, monkeypatch):
    monkeypatch.setattr(partial, "FLUSH_S", 0.0)
    with pytest.raises(KeyboardInterrupt):
        embed(slide, tmp_path / "part", MeanColour(fail_after=4))
    (tmp_path / "part" / "case.h5.partial" / "000000016.npy").write_bytes(b"")
    found = EmbeddingFile(embed(slide, tmp_path / "part")).features()
    np.testing.assert_array_equal(found, EmbeddingFile(embed(slide, tmp_path / "whole")).features())


def test_kill_minus_9_and_again(make_slide, tmp_path):
    """A real kill in the middle of a run, then the same run: the file is as if nothing had happened."""
    slide_file = make_slide(1300, 1000, name="killed.tif")
    program = """
import sys, time
sys.path[:0] = [{tests!r}, {root!r}]
import helpers.embeddings as t
from pathlib import Path
from largegen.slides.slide import open_slide
from largegen.embeddings import partial
partial.FLUSH_S = 0.0
class Slow(t.MeanColour):
    def encode(self, images):
        time.sleep(0.1)
        return super().encode(images)
with open_slide({slide!r}) as slide:
    t.embed(slide, Path({out!r}), Slow())
"""
    out = tmp_path / "out"
    program = program.format(
        tests=str(TESTS),
        root=str(ROOT),
        slide=str(slide_file),
        out=str(out),
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while len(list(out.glob("*.partial/[0-9]*.npy"))) < 3 and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "killed.h5").exists() and (out / "killed.h5.lock").exists()
    encoder = MeanColour()
    with open_slide(slide_file) as slide:
        path = embed(slide, out, encoder)
        expected = EmbeddingFile(embed(slide, tmp_path / "whole")).features()
    assert sum(encoder.batches) - 1 <= len(expected) - 3 * 8
    np.testing.assert_array_equal(EmbeddingFile(path).features(), expected)
    assert leftovers(out) == ["killed.h5"]


def test_a_complete_file_is_kept(slide, tmp_path, caplog):
    path = embed(slide, tmp_path)
    before = path.stat().st_mtime_ns
    encoder = MeanColour()
    with caplog.at_level("INFO", "largegen"):
        assert embed(slide, tmp_path, encoder) == path
    assert not encoder.batches and path.stat().st_mtime_ns == before


def test_other_settings_are_an_error_that_says_which(slide, tmp_path):
    path = embed(slide, tmp_path)
    before = path.read_bytes()
    with pytest.raises(OutputError, match=r"downsample 1\.0 against 2\.0.*`overwrite`"):
        embed(slide, tmp_path, downsample=2.0)
    assert path.read_bytes() == before and leftovers(tmp_path) == ["case.h5"]
    embed(slide, tmp_path, downsample=2.0, overwrite=True)
    assert EmbeddingFile(path).settings.downsample == 2.0


def test_two_runs_do_not_meet(slide, tmp_path):
    with lock(tmp_path / "case.h5"), pytest.raises(LockedError, match=f"process {os.getpid()}"):
        embed(slide, tmp_path)
    assert leftovers(tmp_path) == []


def test_a_slide_without_tissue_names_the_flags(tmp_path):
    from PIL import Image

    Image.new("RGB", (600, 600), (243, 243, 243)).save(tmp_path / "glass.png")
    with (
        open_slide(tmp_path / "glass.png") as glass,
        pytest.raises(InputError, match=r"`tissue_threshold`.*`tissue_filter=False`"),
    ):
        embed(glass, tmp_path / "out")
    assert leftovers(tmp_path / "out") == []


def test_embeddings_that_are_not_finite_are_refused(slide, tmp_path):
    class Broken(MeanColour):
        def encode(self, images):
            return np.full((len(images), 6), np.nan, np.float32)

    with pytest.raises(ModelError, match="not finite"):
        embed(slide, tmp_path, Broken())
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("free_kb", [0, 40, 210])
def test_a_full_disk_is_one_line_and_leaves_no_file(slide, tmp_path, monkeypatch, free_kb):
    """On a small real disk: full at the start, while embedding (40 kB), while writing the file (210)."""
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if subprocess.run(["mount", *options], capture_output=True).returncode:
        pytest.skip("mounting a small file system is not permitted here")
    try:
        if free_kb:  # what the check at the start sees does not hold later
            monkeypatch.setattr("largegen.embeddings.embed.shutil.disk_usage", lambda _: SimpleNamespace(free=10**9))
        (disk / "filler").write_bytes(bytes((256 - free_kb) * 1024 - 4096))
        with pytest.raises(OutputError, match="no space left") as caught:
            embed(slide, disk / "out", Wide())
        assert "\n" not in str(caught.value)
        assert not list(disk.glob("**/*.h5")) and not list(disk.glob("**/*tmp*"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


class Wide(MeanColour):
    dim = 600

    def encode(self, images):
        return np.tile(super().encode(images), (1, 100))


def test_an_unwritable_directory_is_one_line(slide, tmp_path):
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(OutputError, match="cannot be written") as caught:
        embed(slide, tmp_path / "file" / "out")
    assert "\n" not in str(caught.value)


def test_settings_survive_the_partial_record(slide, tmp_path, monkeypatch):
    monkeypatch.setattr(partial, "FLUSH_S", 0.0)
    with pytest.raises(KeyboardInterrupt):
        embed(slide, tmp_path, MeanColour(fail_after=3))
    record = json.loads((tmp_path / "case.h5.partial" / "settings.json").read_text())
    finished = EmbeddingFile(embed(slide, tmp_path)).settings
    assert finished.difference(type(finished).from_dict(record)) is None
