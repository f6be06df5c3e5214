"""`largegen zoom` and `largegen sample`, from the command line to the files."""

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.models import TILE_PX, WIDTH, save_encoder, save_model
from PIL import Image

from largegen import load_model
from largegen.cli import run
from largegen.conditioning.reference import SlideOnDemand, slide_reference
from largegen.embeddings.embed import EmbedOptions
from largegen.errors import InputError
from largegen.models.linear_decoder import fit_linear_decoder
from largegen.sampling.generate import resolve_defaults, sample_latents
from largegen.sampling.patches import choose_places, grids_at, sample_patches
from largegen.sampling.resume import Checkpoint
from largegen.sampling.settings import Sampling, Zooming
from largegen.sampling.zoom.downsample import guide_psnr, tee_bands
from largegen.sampling.zoom.guide import guide_image
from largegen.sampling.zoom.zoom import level_of, zoom_latents
from largegen.slides.image_info import read_provenance
from largegen.slides.slide import open_slide


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return save_model(folder / "model", save_encoder(folder / "encoder"), levels=4)


@pytest.fixture(scope="module")
def model(path):
    return load_model(path, "cpu", "fp32")


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


def settings(model, **changes):
    return resolve_defaults(Sampling(steps=4, **changes), model)


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


def test_the_fast_method_agrees_with_its_guide(model):
    linear = copy.deepcopy(model)
    linear.autoencoder.vae.trunk.decoder.conv_out.requires_grad_(False).weight.zero_()
    linear.linear_decoder = fit_linear_decoder(linear.autoencoder.decode, torch.randn(16, 4, 8, 8))
    guide, canvas = zoom_latents(linear, features(), settings(linear), Zooming())
    free = sample_latents(linear, features(), 256, 256, settings(linear))

    def disagreement(latents):
        seen = torch.nn.functional.avg_pool2d(linear.autoencoder.decode(latents), 4)
        return (seen - guide_image(linear, guide)).square().mean().item()

    assert disagreement(canvas) < 0.1 * disagreement(free)


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


@pytest.mark.parametrize("method", ["fast", "published"])
def test_the_same_seed_gives_the_same_for_every_batch_size(model, method):
    # Without inner steps: scaled to 1, the random networks' tiny responses would be rounding alone.
    zooming = Zooming(method, inner_steps=0, seam_steps=2) if method == "published" else Zooming()
    one, other, seeded = (
        zoom_latents(model, features(), settings(model, batch_size=batch, seed=seed), zooming)
        for batch, seed in ((3, 0), (16, 0), (16, 1))
    )
    for a, b, c in zip(one, other, seeded, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)
        assert (b - c).abs().max() > 0.1


# Killed in the draft or the image under its guide; early in the joint sampling, or in the pass against seams.
@pytest.mark.parametrize(("method", "left"), [("fast", 8), ("fast", -3), ("published", 20), ("published", 35)])
def test_killed_it_goes_on_to_the_same_result(model, method, left, tmp_path, monkeypatch):
    zooming = Zooming(method, inner_steps=1, seam_steps=2) if method == "published" else Zooming()
    checkpoint = Checkpoint(tmp_path / "whole", "a", save_every_s=0.0)
    resumed = replace(checkpoint, path=tmp_path / "killed")
    eps, calls = model.eps, []

    def counting(*arguments):
        calls.append(1)
        if len(calls) == left + 1 and dying:
            raise KeyboardInterrupt
        return eps(*arguments)

    monkeypatch.setattr(model, "eps", counting)
    dying = False
    whole = zoom_latents(model, features(), settings(model), zooming, checkpoint=checkpoint)
    all_calls, dying = len(calls), True
    left %= all_calls
    calls.clear()
    assert left < all_calls
    with pytest.raises(KeyboardInterrupt):
        zoom_latents(model, features(), settings(model), zooming, checkpoint=resumed)
    assert list(tmp_path.glob("killed*"))
    dying = False
    calls.clear()
    again = zoom_latents(model, features(), settings(model), zooming, checkpoint=resumed)
    assert len(calls) <= all_calls - 4
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    other = settings(model, seed=1)
    calls.clear()
    zoom_latents(model, features(), other, zooming, checkpoint=resumed)
    assert len(calls) == all_calls  # another seed starts over


def test_the_pass_against_seams_can_be_switched_off(model):
    plain, passed = (
        zoom_latents(model, features(2), settings(model), Zooming("published", 1, seam_steps=steps))[1]
        for steps in (0, 2)
    )
    assert 0.01 < (plain - passed).abs().mean() < (plain - plain.flip(-1)).abs().mean()


def test_each_level_has_its_own_size(model):
    assert [level_of(model, (size, size)) for size in (128, 256, 512)] == [1, 2, 3]


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


def test_a_grid_that_no_level_fits(model):
    with pytest.raises(InputError, match="square"):
        zoom_latents(model, torch.randn(4, 3, WIDTH), settings(model), Zooming())


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


def test_a_patch_depends_on_its_number_grid_and_level_but_not_on_how_many_there_are(model):
    grid = features(2)[None]
    alone = sample_patches(model, grid, 1, settings(model))
    three = sample_patches(model, torch.cat([grid, grid, grid.flip(-1)]), 1, settings(model, batch_size=2))
    coarser = sample_patches(model, grid, 2, settings(model))
    torch.testing.assert_close(three[:1], alone, atol=1e-4, rtol=1e-4)
    assert (three[1] - three[0]).abs().max() > 0.1 and (coarser - alone).abs().max() > 1e-3


def test_grids_reach_past_the_reference(model, slide_path, tmp_path):
    with open_slide(slide_path) as slide:
        options = EmbedOptions(model.tile_px, tissue_filter=False)
        reference = slide_reference(model, SlideOnDemand(slide, 1.0, options, cache=tmp_path))
        rows, cols = reference.tissue.shape
        few, grid = grids_at(reference, [(-1, cols - 1)], 1, TILE_PX)
        many, _ = grids_at(reference, [(-1, cols - 1)] * rows * cols, 1, TILE_PX)  # embeds all of the reference
    assert few.shape == (1, 2, 2, WIDTH)
    assert np.array_equal(few[0, 1, 0], grid.features[0, 0])
    for row, col in ((0, 0), (0, 1), (1, 1)):
        assert np.array_equal(few[0, row, col], grid.background)
    torch.testing.assert_close(many[:1], few, atol=1e-4, rtol=1e-4)


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


def test_regions_are_drawn_where_there_is_tissue():
    tissue = np.zeros((9, 12), bool)
    tissue[2:6, 7:11] = True
    places = choose_places(tissue, 1, 40, seed=0)
    held = [tissue[max(r, 0) : r + 2, max(c, 0) : c + 2].sum() for r, c in places]
    assert min(held) >= 1 and len(set(places)) == 25
    assert places == choose_places(tissue, 1, 40, seed=0) != choose_places(tissue, 1, 40, seed=1)
    assert choose_places(tissue[:2], 0, 3, seed=0)  # no tissue at all: anywhere
