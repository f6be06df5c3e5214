"""`largegen zoom` and `largegen sample`, from the command line to the files."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.models import TILE_PX, WIDTH, save_encoder, save_model
from PIL import Image

from largegen.cli import run
from largegen.sampling.generate import resolve_defaults
from largegen.sampling.settings import Sampling, Zooming
from largegen.sampling.zoom.downsample import guide_psnr, tee_bands
from largegen.sampling.zoom.zoom import zoom_latents
from largegen.slides.image_info import read_provenance
from largegen.slides.slide import open_slide


@pytest.fixture
def model(zoom_model):
    return zoom_model


@pytest.fixture
def path(zoom_model_path):
    return zoom_model_path


@pytest.fixture
def zoom(path, slide_path, tmp_path, tmp_path_factory):
    def call(*more, command="zoom"):
        options = ["--model", path, "--ref", slide_path, "--cache", tmp_path_factory.getbasetemp() / "cache"]
        options += ["--size", 256, "--out", tmp_path / "a.tif"] if command == "zoom" else []
        return run([command, *map(str, [*options, "--steps", 3, "--device", "cpu", "--precision", "fp32", *more])])

    return call


@pytest.fixture
def fails(zoom, tmp_path, capfd):
    def call(*more, **options):
        capfd.readouterr()
        code = zoom("-q", *more, **options)
        error = capfd.readouterr().err
        assert code == 2 and error.startswith("error: ") and error.count("\n") == 1, error
        assert not any(tmp_path.iterdir())
        return error

    return call


def features(side=4):
    return torch.randn(side, side, WIDTH, generator=torch.Generator().manual_seed(0))


def test_an_image_its_guide_and_the_levels_between(zoom, tmp_path, capsys):
    assert zoom("--levels", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("a.tif", "a.tif.json", "a_10x.png", "a_10x.png.json", "a_guide.png", "a_guide.png.json")
    ]
    with open_slide(tmp_path / "a.tif") as slide:
        assert (slide.width, slide.height) == (256, 256) and slide.mpp == pytest.approx(0.5)
        whole = slide.read(0, 0, 256, 256)
    between = np.asarray(Image.open(tmp_path / "a_10x.png"))
    assert between.shape == (128, 128, 3)
    shrunk = whole.reshape(128, 2, 128, 2, 3).mean((1, 3))
    assert np.abs(between - shrunk).mean() < 6  # the TIFF is compressed
    guide = np.asarray(Image.open(tmp_path / "a_guide.png"))
    assert guide.shape == (TILE_PX, TILE_PX, 3)
    assert report["guide_psnr"] == pytest.approx(guide_psnr(guide, whole), abs=1.5)
    assert report["guide_magnification"] == "5x" and report["levels"] == {"10x": str(tmp_path / "a_10x.png")}
    said = read_provenance(tmp_path / "a.tif")
    assert said["zoom"]["method"] == "fast" and said["licence"] == "CC-BY-4.0 and CC0-1.0"
    said = read_provenance(tmp_path / "a_guide.png")
    assert said["mpp"] == pytest.approx(2.0) and said["guide"] and said["level"] == 2


@pytest.mark.parametrize("method", ["fast", "published"])
def test_a_dry_run_tells_the_work(zoom, model, tmp_path, capsys, method):
    assert zoom("--dry-run", "--method", method) == 0
    report = json.loads(capsys.readouterr().out)
    assert not any(tmp_path.iterdir())
    assert report["settings"]["method"] == method and report["seconds"] > 0
    calls, eps = [], model.eps
    model.eps = lambda latents, *rest: calls.append(len(latents)) or eps(latents, *rest)
    zoom_latents(model, features(), resolve_defaults(Sampling(steps=3), model), Zooming(method))
    del model.eps
    assert report["denoiser_calls"] == sum(calls)


@pytest.mark.parametrize("size", [64, 192, 1024, "256x128", "full"])
def test_a_size_that_no_level_reaches(fails, size):
    error = fails("--size", size)
    assert ("128, 256, 512 px, square" in error) or ("squares of a given side" in error)


def test_a_reference_smaller_than_the_size(fails, make_slide):
    assert "the largest size that fits" in fails("--ref", make_slide(200, 200, name="small.tif"))


def test_a_model_of_one_magnification(fails, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    one = save_model(folder / "model", save_encoder(folder / "encoder"))
    assert "one magnification only" in fails("--model", one)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--method", "quick"], "use one of fast, published"),
        (["--method", "published", "--inner-steps", "-1"], "must be 0 or more"),
        (["--method", "published", "--seam-steps", "301"], "between 0 and 300"),
        (["--method", "published", "--fd-step", "0"], "must be more than 0"),
        (["--method", "published", "--precision", "bf16"], "need --precision fp32"),
        (["--method", "published", "--seam-steps", "31"], "--seam-steps 31: cannot be spaced evenly"),
        (["--inner-steps", "5"], "only with --method published"),
        (["--region", "1"], "--region 1"),
        (["--embeddings", "a.h5"], "give --ref SLIDE or --embeddings FILE.h5"),
    ],
)
def test_options_that_cannot_be(fails, options, text):
    assert text in fails(*options)


def test_what_lies_beside_the_image_is_not_overwritten_unasked(zoom, tmp_path, capfd):
    (tmp_path / "a_guide.png").write_text("mine")
    assert zoom("-q") == 1 and "a_guide.png" in capfd.readouterr().err
    assert (tmp_path / "a_guide.png").read_text() == "mine" and not (tmp_path / "a.tif").exists()
    assert zoom("-q", "--overwrite") == 0 and Image.open(tmp_path / "a_guide.png").size == (TILE_PX, TILE_PX)


def test_killed_while_the_image_is_written_it_is_made_whole_again(zoom, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("largegen.images.zoom_file.tee_bands", dying_after_the_bands)
        assert zoom("-q", "--levels") == 130
    assert not (tmp_path / "a.tif").exists()
    assert zoom("-q", "--levels") == 0
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.endswith(".json")) == [
        *("a.tif", "a_10x.png", "a_guide.png")
    ]


def dying_after_the_bands(bands, *watchers):
    yield from tee_bands(bands, *watchers)
    raise KeyboardInterrupt


def test_zoom_runs_in_one_process(path, slide_path, tmp_path):
    command = [
        "zoom",
        "--ref",
        slide_path,
        "--model",
        path,
        "--size",
        256,
        "--device",
        "cpu",
        "--out",
        tmp_path / "a.tif",
    ]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "largegen"]
    done = subprocess.run(
        [*launch, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode != 0 and "runs in one process" in done.stderr and not any(tmp_path.iterdir())


def test_a_sheet_of_patches(zoom, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert zoom("--mag", 5, "-n", 5, command="sample") == 0
    sheet = np.asarray(Image.open("slide_samples_5x.png"))
    assert sheet.shape == (TILE_PX, 5 * (TILE_PX + 4) - 4, 3)
    patches = [sheet[:, n * (TILE_PX + 4) :][:, :TILE_PX] for n in range(5)]
    assert len({patch.tobytes() for patch in patches}) == 5
    said = read_provenance(tmp_path / "slide_samples_5x.png")
    assert said["magnification"] == "5x" and said["mpp"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--mag", 7], "this model samples at 20x, 10x, 5x, 2.5x"),
        (["--level", 4], "this model has levels 0 to 3"),
        (["--level", 1, "--mag", 5], "give only one of them"),
    ],
)
def test_magnifications_that_the_model_has_not(fails, options, text):
    assert text in fails(*options, command="sample")
