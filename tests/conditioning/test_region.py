"""`--region X,Y` means X,Y: a slide's grid of tiles begins there; of an embedding file the nearest tile is taken."""

import json

import numpy as np
import pytest
from helpers.models import save_encoder, save_model
from helpers.slides import save_slide, tissue_like

from largegen.cli import run
from largegen.slides.slide import open_slide
from largegen.slides.tiles import grid_through, tile_grid


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("region")
    save_model(folder / "model", save_encoder(folder / "encoder"), levels=3)
    save_slide(folder / "slide.tif", tissue_like(700, 600), 0.5)
    return folder


def make(folder, capfd, region, ref=True, command="generate", size="128", mag="20", out="a.tif"):
    source = ["--ref", folder / "slide.tif", "--mag", mag, "--cache", folder / "cache"]
    source = source if ref else ["--embeddings", folder / "h5" / "slide.h5"]
    options = ["--model", folder / "model", "--size", size, "--steps", 1, "--device", "cpu", "--precision", "fp32"]
    options += ["--out", folder / out, "--overwrite", "--region", region, *(["--no-tissue-filter"] if ref else [])]
    capfd.readouterr()
    code = run([command, *map(str, [*source, *options])])
    error = capfd.readouterr().err
    return (json.loads((folder / f"{out}.json").read_text()) if code == 0 else code), error


@pytest.mark.parametrize("command", ["generate", "zoom"])
@pytest.mark.parametrize(("region", "mag"), [("300,201", "20"), ("77,13", "20"), ("0,0", "20"), ("31,7", "18.3")])
def test_an_image_begins_where_it_was_asked_to(folder, capfd, command, region, mag):
    size = "256" if command == "zoom" else "136"
    made, error = make(folder, capfd, region, command=command, size=size, mag=mag)
    assert made["reference_xy"] == [int(v) for v in region.split(",")], error
    assert "nearest" not in error


def test_the_last_corner_fits_and_the_next_does_not(folder, capfd):
    made, error = make(folder, capfd, "572,472")
    assert made["reference_xy"] == [572, 472], error
    code, error = make(folder, capfd, "573,472")
    assert code == 2 and "128x128 px from there leave the reference; corners from 0,0 to 572,472 fit" in error


def test_of_an_embedding_file_the_nearest_tile_is_taken_and_said(folder, capfd):
    embed = ["embed", folder / "slide.tif", "--out", folder / "h5", "--tile-px", 64, "--device", "cpu", "-q"]
    assert run([*map(str, embed), "--encoder", f"local-dir:{folder / 'encoder'}"]) == 0
    made, error = make(folder, capfd, "100,70", ref=False)
    assert made["reference_xy"] == [128, 64] and "--region 100,70: the image begins at 128,64" in error
    made, error = make(folder, capfd, "129,64", ref=False)
    assert made["reference_xy"] == [128, 64] and "nearest" not in error


@pytest.mark.parametrize("stride", [64, 128.5, 100.27])
@pytest.mark.parametrize("corner", [(0, 0), (1, 2), (768, 768), (12345, 6789)])
def test_a_grid_through_a_corner(stride, corner):
    x, y = grid_through(corner, stride)
    assert 0 <= x < stride and 0 <= y < stride
    col, row = (int(v / stride) for v in corner)
    assert (x + round(col * stride), y + round(row * stride)) == corner


def test_tiles_of_a_moved_grid(folder):
    slide = open_slide(folder / "slide.tif")
    grid = tile_grid(slide, 2.0, 64, 0, (60, 30))
    assert (grid.rows, grid.cols) == (4, 5) and grid.xy(1, 2) == (60 + 256, 30 + 128)
    assert np.array_equal(grid.coords[0], (60, 30))
