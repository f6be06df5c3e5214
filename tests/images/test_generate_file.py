"""From embeddings to an image file."""

import json
import logging
import time
from dataclasses import replace

import numpy as np
import pytest
import rasterio
from helpers.disk import small_disk
from helpers.models import flat_grid

from largegen import generate
from largegen.conditioning.area import ImageArea
from largegen.errors import LockedError, OutputError
from largegen.images.generate_file import generate_file
from largegen.runtime.lock import lock
from largegen.sampling.settings import SCHEDULERS as NAMES
from largegen.sampling.settings import Sampling
from largegen.slides.slide import open_slide

QUICK = Sampling(steps=3)
WHOLE = ImageArea(256, 192, 0, 0, 3, 4, full=False)


def pixels(path) -> np.ndarray:
    with open_slide(path) as slide:
        return slide.read(0, 0, slide.width, slide.height)


def test_a_file_holds_the_image_of_the_function(model, grid, tmp_path):
    report = generate_file(model, grid, WHOLE, tmp_path / "a.png", QUICK)
    assert np.array_equal(pixels(tmp_path / "a.png"), generate(model, grid, steps=3))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "a.png.json"]
    assert (report["width"], report["height"]) == (256, 192)
    around = (32 // 8) * (40 // 8)  # windows side by side on the ring; at the last of three steps every half window
    inside = (2 * 24 // 8 - 1) * (2 * 32 // 8 - 1)
    assert report["denoiser_calls"] == 2 * (around + around + inside)


def test_what_made_it(model, grid, tmp_path):
    generate_file(model, grid, WHOLE, tmp_path / "a.tif", Sampling(steps=1, seed=7), command="largegen generate ...")
    record = json.loads((tmp_path / "a.tif.json").read_text())
    assert record["command"] == "largegen generate ..." and record["seed"] == 7
    assert record["model"] == "tiny" and record["encoder"] == model.info.encoder
    assert record["licence"] == "CC-BY-4.0 and CC0-1.0" and record["encoder_licence"] == "CC-BY-4.0"
    assert record["reference"] == "source" and record["reference_xy"] == [256, 128]
    assert record["mpp"] == 0.5 and record["sampling"]["steps"] == 1 and record["sampling"]["stride"] == 0
    assert set(record["versions"]) == {"largegen", "torch", "diffusers"}


def test_the_whole_reference_skips_its_background(model, tmp_path):
    tissue = np.zeros((6, 8), bool)
    tissue[0:2, 0:2] = True
    grid = flat_grid(model, 6, 8, tissue=tissue)
    sampling = Sampling(steps=2, windows="overlap", stride=8)
    report = generate_file(model, grid, ImageArea(512, 384, 0, 0, 6, 8, full=True), tmp_path / "a.png", sampling)
    image = pixels(tmp_path / "a.png")
    near = 3 * 64  # tissue and the tiles beside it
    assert (image[near:] == (240, 241, 242)).all() and (image[:, near:] == (240, 241, 242)).all()
    assert image[:near, :near].std() > 20
    assert report["denoiser_calls"] == 2 * 2 * 9


class Stop(Exception):
    pass


@pytest.fixture
def stop_after(monkeypatch, model):
    """Make the denoiser of `model` fail after so many calls."""
    original = type(model).eps

    def stop(calls: int) -> None:
        left = iter(range(calls))

        def eps(self, *arguments):
            if next(left, None) is None:
                raise Stop
            return original(self, *arguments)

        monkeypatch.setattr(type(model), "eps", eps)

    return stop


@pytest.mark.parametrize("scheduler", NAMES)
def test_a_stopped_run_goes_on(model, grid, tmp_path, stop_after, caplog, monkeypatch, scheduler):
    sampling = Sampling(steps=6, scheduler=scheduler, batch_size=100)
    whole = generate(model, grid, steps=6, scheduler=scheduler, batch_size=100)
    out = tmp_path / "a.png"
    stop_after(4)
    with pytest.raises(Stop):
        generate_file(model, grid, WHOLE, out, sampling, save_every_s=0)
    assert [p.name for p in tmp_path.iterdir()] == [".a.png.partial"]
    for name in (".a.png.123.tmp.png", "..a.png.partial.123.tmp.partial"):  # as kill -9 leaves them
        (tmp_path / name).write_bytes(b"half")
    stop_after(2)
    with caplog.at_level(logging.INFO, "largegen"):
        generate_file(model, grid, WHOLE, out, sampling, save_every_s=0)
    assert "resuming after step 4 of 6" in caplog.text
    assert np.array_equal(pixels(out), whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "a.png.json"]


def test_an_automatic_batch_size_is_that_of_the_stopped_run(model, grid, tmp_path, stop_after, monkeypatch):
    out = tmp_path / "a.png"
    monkeypatch.setattr("largegen.sampling.generate.auto_batch_size", lambda _: 5)
    stop_after(6)
    with pytest.raises(Stop):
        generate_file(model, grid, WHOLE, out, QUICK, save_every_s=0)
    monkeypatch.setattr("largegen.sampling.generate.auto_batch_size", lambda _: 2)  # the GPU is shared by now
    partial, sizes = (tmp_path / ".a.png.partial").read_bytes(), []
    stop_after(100)
    original = type(model).eps
    monkeypatch.setattr(type(model), "eps", lambda self, *given: sizes.append(len(given[0])) or original(self, *given))
    generate_file(model, grid, WHOLE, out, QUICK)
    assert max(sizes) == 2 * 5
    sizes.clear()
    (tmp_path / ".a.png.partial").write_bytes(partial)
    generate_file(model, grid, WHOLE, out, replace(QUICK, batch_size=3), overwrite=True)
    assert max(sizes) == 2 * 3


def test_huge_canvases_are_not_saved_all_the_time(model, grid, tmp_path, monkeypatch):
    saves = []

    def slow(path, fingerprint, progress):
        saves.append(progress.step)
        time.sleep(0.3)  # 20 times that is longer than the whole run

    monkeypatch.setattr("largegen.sampling.resume.save_progress", slow)
    generate_file(model, grid, WHOLE, tmp_path / "a.png", Sampling(steps=5), save_every_s=1e-6)
    assert saves == [1, 5]


def test_progress_of_other_settings_model_or_embeddings_is_not_taken(model, grid, tmp_path, stop_after, caplog):
    out = tmp_path / "a.png"
    stop_after(2)
    with pytest.raises(Stop):
        generate_file(model, grid, WHOLE, out, Sampling(steps=3, batch_size=100), save_every_s=0)
    partial = (tmp_path / ".a.png.partial").read_bytes()
    stop_after(100)
    bias = model.unet.conv_out.bias
    changed = flat_grid(model, 3, 4, seed=1)
    for grid_now, seed, shift in ((grid, 1, 0.0), (changed, 0, 0.0), (grid, 0, 1.0)):
        (tmp_path / ".a.png.partial").write_bytes(partial)
        caplog.clear()
        bias.data += shift
        generate_file(model, grid_now, WHOLE, out, Sampling(steps=3, batch_size=100, seed=seed), overwrite=True)
        bias.data -= shift
        assert "starting again" in caplog.text


def test_two_at_once(model, grid, tmp_path):
    with lock(tmp_path / "a.png"), pytest.raises(LockedError, match="writing this output already"):
        generate_file(model, grid, WHOLE, tmp_path / "a.png", QUICK)
    assert not list(tmp_path.iterdir())


def test_an_existing_image_stays(model, grid, tmp_path, stop_after):
    out = tmp_path / "a.png"
    out.write_bytes(b"mine")
    stop_after(0)
    with pytest.raises(OutputError, match="`overwrite=True`"):
        generate_file(model, grid, WHOLE, out, QUICK)
    assert out.read_bytes() == b"mine" and len(list(tmp_path.iterdir())) == 1


def test_a_disk_too_full_for_the_unfinished_canvas(model, grid, tmp_path):
    with small_disk(tmp_path / "disk", 12) as folder:  # the lock takes a page of 4 kB, the canvas four
        with pytest.raises(OutputError, match="no space left on the disk") as caught:
            generate_file(model, grid, WHOLE, folder / "a.tif", QUICK, save_every_s=0)
        assert "\n" not in str(caught.value) and not list(folder.iterdir())


def test_a_disk_too_full_for_the_image(model, grid, tmp_path):
    with small_disk(tmp_path / "disk", 40) as folder:
        with pytest.raises(OutputError, match="no space left on the disk"):
            generate_file(model, grid, WHOLE, folder / "a.tif", QUICK)
        assert [p.name for p in folder.iterdir()] == [".a.tif.partial"]  # to resume from when there is room


def test_a_scene_lies_where_its_reference_lies(model, tmp_path):
    transform = (5.0, 0.0, 485900.0, 0.0, -5.0, 5209245.0)
    source = replace(flat_grid(model, 3, 4).source, kind="scene", mpp=None, gsd_m=5.0)
    grid = flat_grid(model, 3, 4, source=replace(source, crs="EPSG:26914", transform=transform))
    generate_file(model, grid, WHOLE, tmp_path / "a.tif", Sampling(steps=1))
    with rasterio.open(tmp_path / "a.tif") as scene:
        assert scene.crs.to_epsg() == 26914
        # level-0 corner (256, 128), 2 level-0 px per px
        assert tuple(scene.transform)[:6] == (10.0, 0.0, 485900 + 256 * 5, 0.0, -10.0, 5209245 - 128 * 5)
        assert tuple(scene.bounds) == (487180, 5208605 - 1920, 487180 + 2560, 5208605)
    assert json.loads((tmp_path / "a.tif.json").read_text())["gsd_m"] == 10
