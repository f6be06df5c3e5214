"""`largegen zoom` and `largegen sample`, from the command line to the files."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TILE_PX, WIDTH, save_encoder, save_model

from largegen import load_model
from largegen.cli import run
from largegen.errors import InputError
from largegen.generation import effective
from largegen.guide import fit_linear_decoder
from largegen.settings import Sampling, Zooming
from largegen.slide import open_slide
from largegen.writers import read_provenance
from largegen.zoom import choose_regions, guide_psnr, level_of, sample_guide, zoom_latents


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
    return effective(Sampling(steps=4, **changes), model)


def test_a_picture_its_guide_and_the_levels_between(zoom, tmp_path, capsys):
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
    assert report["magnification_of_the_guide"] == "5x"
    said = read_provenance(tmp_path / "a.tif")
    assert said["zoom"]["method"] == "fast" and said["licence"] == "CC-BY-4.0 and CC0-1.0"
    assert read_provenance(tmp_path / "a_guide.png")["mpp"] == pytest.approx(2.0)


def test_the_fast_method_agrees_with_its_guide(model):
    linear = copy.deepcopy(model)
    linear.autoencoder.vae.trunk.decoder.conv_out.requires_grad_(False).weight.zero_()
    linear.linear_decoder = fit_linear_decoder(linear.autoencoder.decode, torch.randn(16, 4, 8, 8))

    def disagreement():
        guide, canvas = zoom_latents(linear, features(), settings(linear), Zooming())
        seen = torch.nn.functional.avg_pool2d(linear.autoencoder.decode(canvas), 4)
        return (seen - linear.autoencoder.decode(guide)).square().mean().item()

    bound = disagreement()
    blind = replace(linear.linear_decoder, weight=linear.linear_decoder.weight * 0 + 1e-12)  # sees nothing
    linear.linear_decoder = blind
    assert bound < 0.1 * disagreement()


@pytest.mark.parametrize("method", ["fast", "published"])
def test_a_dry_run_tells_the_work(zoom, model, tmp_path, capsys, method):
    assert zoom("--dry-run", "--method", method) == 0
    report = json.loads(capsys.readouterr().out)
    assert not any(tmp_path.iterdir())
    assert report["settings"]["method"] == method and report["seconds"] > 0
    calls, eps = [], model.eps
    model.eps = lambda latents, *rest: calls.append(len(latents)) or eps(latents, *rest)
    zoom_latents(model, features(), effective(Sampling(steps=3), model), Zooming(method))
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


@pytest.mark.parametrize("method", ["fast", "published"])
def test_killed_it_goes_on_to_the_same_result(model, method, tmp_path, monkeypatch):
    zooming = Zooming(method, inner_steps=1, seam_steps=2) if method == "published" else Zooming()
    whole = zoom_latents(model, features(), settings(model), zooming, checkpoint=tmp_path / "whole")
    eps, left = model.eps, 40 if method == "published" else 8
    calls = []

    def dying(*arguments):
        calls.append(1)
        if len(calls) > left:
            raise KeyboardInterrupt
        return eps(*arguments)

    monkeypatch.setattr("largegen.sampling.SAVES_APART", 0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(model, "eps", dying)
        zoom_latents(model, features(), settings(model), zooming, checkpoint=tmp_path / "killed")
    again = zoom_latents(model, features(), settings(model), zooming, checkpoint=tmp_path / "killed")
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))


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
        (["--inner-steps", "5"], "only with --method published"),
        (["--region", "1"], "--region 1"),
        (["--embeddings", "a.h5"], "give --ref SLIDE or --embeddings FILE.h5"),
    ],
)
def test_options_that_cannot_be(fails, options, text):
    assert text in fails(*options)


def test_a_sheet_of_patches(zoom, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert zoom("--mag", 5, "-n", 5, command="sample") == 0
    sheet = np.asarray(Image.open("slide_samples_5x.png"))
    assert sheet.shape == (TILE_PX, 5 * (TILE_PX + 4) - 4, 3)
    patches = [sheet[:, n * (TILE_PX + 4) :][:, :TILE_PX] for n in range(5)]
    assert len({patch.tobytes() for patch in patches}) == 5
    said = read_provenance(tmp_path / "slide_samples_5x.png")
    assert said["magnification"] == "5x" and said["mpp"] == pytest.approx(2.0)


def test_a_patch_depends_on_its_place_and_level(model):
    grid = features(2)
    one, again, place, level = (
        sample_guide(model, grid, level, settings(model), place=place)
        for level, place in ((1, 1), (1, 1), (1, 2), (2, 1))
    )
    assert torch.equal(one, again)
    assert (one - place).abs().max() > 0.1 and (one - level).abs().max() > 1e-3


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
    places = choose_regions(tissue, 1, 40, seed=0)
    held = [tissue[max(r, 0) : r + 2, max(c, 0) : c + 2].sum() for r, c in places]
    assert min(held) >= 1 and len(set(places)) == 25
    assert places == choose_regions(tissue, 1, 40, seed=0) != choose_regions(tissue, 1, 40, seed=1)
    assert choose_regions(tissue[:2], 0, 3, seed=0)  # no tissue at all: anywhere
