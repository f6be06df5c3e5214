"""`largegen upscale`, from the command line to the file."""

import json
from copy import copy
from dataclasses import replace

import numpy as np
import pytest
from helpers.commands import assert_one_line
from helpers.slides import save_slide, tissue_like
from PIL import Image

from largegen.cli import run
from largegen.conditioning.low_image import read_low_image
from largegen.images.upscale_file import upscale_file
from largegen.sampling.cost import canvas_cost
from largegen.sampling.settings import UPSCALING, Inversion, Sampling
from largegen.sampling.zoom.enlargement import Enlargement
from largegen.sampling.zoom.upscale import walks_in_bands
from largegen.sampling.zoom.zoom import resolve_zoom
from largegen.slides.image_info import read_provenance
from largegen.slides.resolution import Resolution
from largegen.slides.slide import open_slide


@pytest.fixture
def patch(tmp_path):
    """A PNG of 40x30 px that says no resolution, cut from tissue at 5x."""
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "patch.png"
    Image.fromarray(tissue_like(700, 500, 0)[200:230, 300:340]).save(path)
    return path


@pytest.fixture
def upscale(zoom_model_path, tmp_path):
    def call(path, *more):
        options = ["--model", zoom_model_path, "--out", tmp_path / "a.tif", "--device", "cpu", "--precision", "fp32"]
        quick = ["--steps", 2, "--invert-steps", 2]
        return run(["upscale", *map(str, [path, *options, *quick, *more])])

    return call


def test_a_patch_at_5x_becomes_an_image_at_20x(upscale, patch, tmp_path, capsys):
    assert upscale(patch, "--mag", 5, "--to", 20, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["width"], report["height"], report["factor"]) == (160, 120, 4)
    assert report["consistency_psnr"] > 25 and report["invert_steps"] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif", "a.tif.json", "in"]
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.mpp == pytest.approx(0.5) and (slide.width, slide.height) == (160, 120)
    said = read_provenance(tmp_path / "a.tif")
    assert said["upscale"] == {"factor": 4, "of": "5x", "start": "view", "invert_steps": 2, "invert_rate": 0.1}
    assert "invented" in said["warning"] and said["reference"] == "patch" and said["zoom"] == {"method": "fast"}
    before = (tmp_path / "a.tif").stat().st_mtime_ns
    assert upscale(patch, "--mag", 5, "--to", 20, "--json") == 0
    assert json.loads(capsys.readouterr().out)["kept"] and (tmp_path / "a.tif").stat().st_mtime_ns == before


def test_a_part_of_a_slide_is_read_at_the_magnification_asked_for(upscale, tmp_path):
    slide = save_slide(tmp_path / "slide.tif", tissue_like(400, 320, 0), 0.5)
    assert upscale(slide, "--mag", 10, "--region", "40,60,80,100", "-q") == 0
    said = read_provenance(tmp_path / "a.tif")
    assert (said["width"], said["height"]) == (80, 100) and said["reference_xy"] == [40, 60]
    assert said["reference_downsample"] == 1.0 and said["mpp"] == pytest.approx(0.5)


def test_a_scene_keeps_its_place(zoom_model, scene_path, tmp_path):
    model = copy(zoom_model)
    model.info = replace(model.info, trained_on=())  # of no known resolution
    low = read_low_image(model, scene_path, Resolution(), Resolution(), factor=2, region=(300, 200, 40, 30))
    out = tmp_path / "a.png"
    upscale_file(model, low, out, Sampling(steps=2), UPSCALING, Inversion("noise", 1))
    with open_slide(out) as scene:
        assert scene.kind == "scene" and scene.gsd_m == 2.5 and (scene.width, scene.height) == (80, 60)
        assert scene.georeference.transform == (2.5, 0, 485900 + 300 * 5, 0, -2.5, 5209245 - 200 * 5)


def test_in_bands_and_a_file_it_is_the_same(upscale, patch, in_bands, tmp_path, monkeypatch):
    found = []
    for bounded in (False, True):
        if bounded:
            in_bands(monkeypatch)
        assert upscale(patch, "--factor", 4, "--out", tmp_path / "a.png", "--overwrite", "-q") == 0
        found.append(np.asarray(Image.open(tmp_path / "a.png")))
    assert np.array_equal(*found) and not list(tmp_path.glob(".*"))


def test_a_dry_run_tells_the_work_and_does_none(upscale, patch, tmp_path, capsys):
    assert upscale(patch, "--factor", 4, "--invert-steps", 100, "--dry-run") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["inversion_steps"] == 100 * 1 and report["denoiser_calls"] > 0 and report["seconds"] > 0
    assert not (tmp_path / "a.tif").exists()


def test_what_is_held_in_memory_as_a_whole_is_predicted_so(zoom_model):
    image = np.zeros((64, 64, 3), np.uint8)
    fast, published = (replace(UPSCALING, method=method) for method in ("fast", "published"))
    assert walks_in_bands(Enlargement(zoom_model, image, 8), fast)
    assert not walks_in_bands(Enlargement(zoom_model, image, 4), published)
    sampling = resolve_zoom(Sampling(steps=1), fast, zoom_model)
    bands, whole = (canvas_cost(zoom_model, sampling, 1024, 1024, whole)["memory_mb"] for whole in (False, True))
    assert whole > bands + 100


def test_many_images_by_one_command(zoom_model_path, patch, tmp_path, capfd):
    Image.open(patch).transpose(Image.Transpose.ROTATE_180).save(patch.with_name("other.png"))
    how = ["--model", zoom_model_path, "--out", tmp_path / "out", "--steps", 1, "--device", "cpu", "-q"]
    quick = ["--start", "noise", "--invert-steps", 0]
    assert run(["upscale", *map(str, [patch.parent, "--mag", 5, *how, *quick])]) == 0
    assert {path.name for path in (tmp_path / "out").glob("*.tif")} == {"patch_upscaled.tif", "other_upscaled.tif"}
    lines = ["image,factor,region,out", f'{patch},2,"0,0,20,30",a.png', f"{patch},4,,b.png"]
    (tmp_path / "jobs.csv").write_text("\n".join(lines))
    capfd.readouterr()
    assert run(["upscale", *map(str, ["--jobs", tmp_path / "jobs.csv", *how, *quick, "--json"])]) == 0
    first, second = json.loads(capfd.readouterr().out)["jobs"]
    assert (first["output"], first["width"], second["output"], second["width"]) == ("a.png", 40, "b.png", 160)


def test_killed_it_goes_on_to_the_same_image(upscale, patch, tmp_path, monkeypatch, capsys):
    more = ["--factor", 4, "--out", tmp_path / "a.png", "--save-every", 0]
    assert upscale(patch, *more, "-q") == 0
    whole = np.asarray(Image.open(tmp_path / "a.png"))
    (tmp_path / "a.png").unlink()

    def dying(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as at_the_end:
        at_the_end.setattr("largegen.images.upscale_file.write_image", dying)
        assert upscale(patch, *more, "-q") == 130
    assert (tmp_path / ".a.png.partial").exists()
    assert upscale(patch, *more, "-q") == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), whole)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ([], "give --factor"),
        (["--mag", 7], "(7x); model tiny makes"),
        (["--mag", 20], "say with --mag at which to read it"),
        (["--mag", 5, "--to", 40], "--to 40: model tiny makes 20x, no other"),
        (["--mag", 5, "--factor", 2], "is 4 times as coarse"),
        (["--factor", 3], "--factor 3: model tiny enlarges by 2, 4, 8"),
        (["--factor", 4, "--region", "30,0,20,20"], "has 40x30 px"),
        (["--factor", 4, "--region", "1,2"], "give X,Y,W,H"),
        (["--mag", 5, "--mpp", 2], "give only one of them"),
        (["--gsd", 1], "choose another --model"),
        (["--factor", 4, "--start", "x"], "--start x: use one of view, noise"),
        (["--factor", 4, "--invert-rate", "0"], "--invert-rate 0: must be more than 0"),
        (["--factor", 4, "--inner-steps", 3], "only with --method published"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(upscale, patch, tmp_path, capfd, options, text):
    assert upscale(patch, "-q", *options) == 2
    assert_one_line(capfd.readouterr().err, text)
    assert not (tmp_path / "a.tif").exists()
