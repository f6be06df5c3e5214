"""`largegen generate`, from the command line to the image."""

import json

import numpy as np
import pytest
from helpers.images import levels_apart, pixels
from helpers.slides import GLASS

from largegen.cli import run
from largegen.embeddings.file import EmbeddingFile
from largegen.slides.slide import open_slide


@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif", "a.dzi", "a.png", "a.jpg"])
def test_every_format(generate, tmp_path, capfd, name):
    code, out, _ = generate(size="192x128", out=name)
    assert code == 0 and out == f"{tmp_path / name}: 192x128 px\n"
    files = {name, f"{name}.json"} | ({"a_files"} if name == "a.dzi" else set())
    assert {p.name for p in tmp_path.iterdir()} == files
    assert run(["info", str(tmp_path / name), "--json"]) == 0
    made_by = json.loads(capfd.readouterr().out)["provenance"]
    assert made_by["model"] == "tiny" and made_by["seed"] == 0 and made_by["mpp"] == 0.5
    assert made_by["licence"] == "CC-BY-4.0 and CC0-1.0" and made_by["reference"] == "slide"
    assert made_by == json.loads((tmp_path / f"{name}.json").read_text())


def test_the_default_output(generate, slide_path, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = arguments(size="128x64")
    del command[command.index("--out") : command.index("--out") + 2]
    assert run(command) == 0
    assert (tmp_path / "slide_synthetic_128x64.tif").is_file()


def test_json_is_one_object_on_stdout(generate, tmp_path):
    code, out, _ = generate("--json")
    report = json.loads(out)
    assert code == 0 and report["out"] == str(tmp_path / "a.png")
    assert (report["width"], report["height"]) == (128, 128)


def test_a_region_is_embedded_once(generate, cache, tmp_path, monkeypatch):
    assert generate("--region", "512,384", "--tissue-threshold", 0.06)[0] == 0
    (file,) = [p for p in cache.iterdir() if EmbeddingFile(p).settings.tissue_filter == "saturation > 0.06"]
    assert EmbeddingFile(file).settings.region == (6, 8, 2, 2)
    before = file.stat()
    monkeypatch.setattr("largegen.models.encoder.load_encoder", None)  # nor are its weights loaded again
    code, _, err = generate("--region", "512,384", "--tissue-threshold", 0.06, out="b.png")
    assert code == 0 and "kept" in err
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))
    assert json.loads((tmp_path / "b.png.json").read_text())["reference_xy"] == [512, 384]


def test_an_embedding_file_makes_the_same_image_as_its_slide(generate, model, slide_path, tmp_path):
    encoder = ["--encoder", f"local-dir:{model}/encoder", "--tile-px", "64", "--device", "cpu"]
    assert run(["embed", str(slide_path), "--out", str(tmp_path), *encoder]) == 0
    for place in ([], ["--region", "256,128"], ["--size", "1296x1000", "--steps", 1]):
        assert generate(*place, "--overwrite")[0] == 0
        assert generate(*place, "--embeddings", tmp_path / "slide.h5", "--overwrite", ref=None, out="b.png")[0] == 0
        assert levels_apart(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png")) <= 1


def test_full_is_laid_over_the_whole_slide(generate, slide_path, tmp_path):
    code, _, _ = generate("--windows", "overlap", "--stride", 8, "--json", size="full")
    image = pixels(tmp_path / "a.png")
    assert code == 0 and image.shape == (1000, 1296, 3)  # of 1300x1000, what is a multiple of 8
    with open_slide(slide_path) as slide:
        assert np.ptp(slide.background) <= 2 and abs(slide.background[0] - GLASS) <= 2
        assert (image[:64, :64] == slide.background).all() and (image[-8:, -8:] == slide.background).all()
    assert image[448:512, 608:672].std() > 20


def test_a_scene_lies_over_its_region(generate, scene_path, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    code, _, _ = generate("--region", "256,128", ref=scene_path, size="192x128", out="a.tif")
    assert code == 0
    with rasterio.open(scene_path) as source, rasterio.open(tmp_path / "a.tif") as scene:
        assert scene.crs == source.crs
        assert scene.bounds == rasterio.windows.bounds(rasterio.windows.Window(256, 128, 192, 128), source.transform)
    code, _, _ = generate("--gsd", 7.5, ref=scene_path, size="192x128", out="b.tif")
    x, y = json.loads((tmp_path / "b.tif.json").read_text())["reference_xy"]
    with rasterio.open(scene_path) as source, rasterio.open(tmp_path / "b.tif") as scene:
        place = rasterio.windows.Window(x, y, 288, 192)
        assert scene.res == (7.5, 7.5) and scene.bounds == rasterio.windows.bounds(place, source.transform)


@pytest.mark.parametrize(
    "more",
    [
        ["--guidance", 0],
        ["--guidance", 1],
        ["--eta", 0.5],
        ["--scheduler", "dpm++"],
        ["--scheduler", "unipc"],
        ["--windows", "overlap"],
        ["--windows", "overlap", "--stride", 3],
        ["--batch-size", 3],
        ["--batch-size", "auto"],
        ["--mpp", 0.7],
        ["--no-tissue-filter", "--region", "0,0"],
    ],
)
def test_options(generate, tmp_path, more):
    assert generate(*more)[0] == 0
    assert pixels(tmp_path / "a.png").std() > 20


def test_options_from_a_file(generate, tmp_path):
    (tmp_path / "run.toml").write_text('seed = 5\n[generate]\nscheduler = "unipc"\nsave-every = 0\n')
    assert generate("--config", tmp_path / "run.toml", "--scheduler", "ddim")[0] == 0
    record = json.loads((tmp_path / "a.png.json").read_text())
    assert record["seed"] == 5 and record["sampling"]["scheduler"] == "ddim"


def test_a_dry_run_embeds_and_writes_nothing(generate, tmp_path):
    cache = tmp_path / "empty"
    code, out, _ = generate("--cache", cache, "-n", size="full")
    plan = json.loads(out)
    assert code == 0 and not list(tmp_path.iterdir())
    assert plan["tiles"] == 300 and 0 < plan["tissue_tiles"] < 300
    assert plan["region"]["width"] == 1296 and plan["settings"]["batch_size"] == 8
    assert plan["seconds"] >= 0 and plan["memory_mb"] > 100 and plan["disk_mb"] > 0
    assert plan["canvas_file_mb"] == 0  # it is small
    assert 0 < plan["sent_mb_per_step"]["2"] < plan["sent_mb_per_step"]["4"] < plan["sent_mb_per_step"]["8"]
    code, out, _ = generate("--cache", cache, "--json", size="full")
    assert json.loads(out)["denoiser_calls"] == plan["denoiser_calls"]
