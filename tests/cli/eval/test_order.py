"""The metrics put images in the right order: what is visibly worse than the starter's own image scores worse."""

import json

import numpy as np
import pytest
import torch
from helpers import ROOT
from helpers.slides import tissue_like
from PIL import Image, ImageFilter

from largegen.cli import run
from largegen.slides.slide import open_slide

EXAMPLE = ROOT / "examples" / "reference.tif"
SIZE, TILE = 768, 256
SIDE = SIZE // TILE


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """The figures are those of one machine and one order of sums."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The starter's image, in pixels alone, and the place in the slide that it was made after."""
    folder = tmp_path_factory.mktemp("order")
    options = ["--region", "0,0", "--size", SIZE, "--cache", folder, "--out", folder / "made.tif"]
    assert run(["generate", "-q", *map(str, ["--ref", EXAMPLE, "--device", "cpu", *options])]) == 0
    for name, path in (("made", folder / "made.tif"), ("real", EXAMPLE)):
        with open_slide(path) as slide:
            save(folder, name, slide.read(0, 0, SIZE, SIZE, slide.downsample_for(mag=20)))
    return folder


def save(folder, name, pixels):
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{name}.png")


@pytest.fixture(scope="module")
def made(folder):
    """(SIZE, SIZE, 3) int64"""
    return np.asarray(Image.open(folder / "made.png")).astype(int)


@pytest.fixture
def measure(folder, capsys):
    """A metric's value for an image: `measure("fd:starter", "blurred", pixels)`."""

    def value(metric, name="made", pixels=None, crop_px=TILE, folder=folder):
        if pixels is not None:
            save(folder, name, pixels)
        (folder / "pairs.csv").write_text(f"generated,real\n{name}.png,real.png\n")
        options = ["--pairs", folder / "pairs.csv", "--crops", 120, "--crop-px", crop_px, "--replicates", 0]
        sets = ["--real", folder / "real.png", "--fake", folder / f"{name}.png"]
        arguments = ["eval", "-q", "--json", "--device", "cpu", "--metrics", metric, *sets, *options]
        assert run([str(argument) for argument in arguments]) == 0
        (level,) = json.loads(capsys.readouterr().out)["levels"]
        (figure,) = level["figures"]
        return figure["value"]

    return value


@pytest.fixture(scope="module")
def tiles(made):
    """(SIDE * SIDE, TILE, TILE, 3) int64, row by row"""
    return made.reshape(SIDE, TILE, SIDE, TILE, 3).swapaxes(1, 2).reshape(-1, TILE, TILE, 3)


def joined(tiles):
    return tiles.reshape(SIDE, SIDE, TILE, TILE, 3).swapaxes(1, 2).reshape(SIZE, SIZE, 3)


def test_shuffled_tiles_are_not_like_what_they_were_made_after(measure, tiles):
    shuffled = joined(np.roll(tiles, SIDE + 1, axis=0))
    assert measure("embedding-similarity") > 0.05 + measure("embedding-similarity", "shuffled", shuffled)


def test_a_blur_is_far_from_the_real_image(measure, folder):
    blurred = np.asarray(Image.open(folder / "made.png").filter(ImageFilter.GaussianBlur(2)))
    assert 2 * measure("fd:starter") < measure("fd:starter", "blurred", blurred)


def test_another_stain_is_farther_and_less_alike(measure, made):
    stained = made + np.array([25, -15, 10])
    assert 1.03 * measure("fd:starter") < measure("fd:starter", "stained", stained)
    assert measure("embedding-similarity") > 0.01 + measure("embedding-similarity", "stained", stained)


def test_a_grid_at_the_tiles_borders_is_a_seam(measure, made, tiles):
    bright = joined(tiles + np.random.default_rng(0).integers(-30, 31, (len(tiles), 1, 1, 1)))
    lined = made.copy()
    lined[TILE::TILE] //= 2
    lined[:, TILE::TILE] //= 2
    assert 1.1 * measure("seam") < measure("seam", "bright", bright) < measure("seam", "lined", lined)


def test_strong_compression_shows_beside_lossless_images(measure, tmp_path):
    save(tmp_path, "real", tissue_like(SIZE, SIZE, 0))
    save(tmp_path, "made", tissue_like(SIZE, SIZE, 1))
    compressed = saved_as_jpeg(tmp_path / "made.png", 20)
    plain = measure("fd:starter", folder=tmp_path)
    assert 2 * plain < measure("fd:starter", "compressed", compressed, folder=tmp_path)


def saved_as_jpeg(path, quality):
    Image.open(path).save(path.with_suffix(".jpg"), quality=quality)
    return np.asarray(Image.open(path.with_suffix(".jpg")))
