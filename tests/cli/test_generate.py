"""`largegen generate`, from the command line to the file."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers.models import save_encoder, save_model
from helpers.slides import GLASS, save_slide
from safetensors.torch import load_file, save_file

from largegen.cli import run
from largegen.embeddings.file import EmbeddingFile
from largegen.runtime.lock import lock
from largegen.slides.slide import open_slide


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    path = save_model(folder / "model", save_encoder(folder / "encoder"))
    shutil.rmtree(folder / "encoder")  # the model has its own copy
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def arguments(model, slide_path, cache, tmp_path):
    """The arguments of a quick run, to which a test adds; the 1300x1000 px slide makes 20x15 tiles of 64 px."""

    def make(*more, ref=slide_path, size=128, out="a.png") -> list[str]:
        options = ["--size", size, "--model", model, "--out", tmp_path / out]
        options += ["--ref", ref, "--cache", cache] if ref else []
        return ["generate", *map(str, [*options, "--steps", 2, "--device", "cpu", "--precision", "fp32", *more])]

    return make


@pytest.fixture
def generate(arguments, capfd):
    """Run the command in this process: exit code, stdout, stderr."""

    def call(*more, **options) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run(arguments(*more, **options))
        return code, *capfd.readouterr()

    return call


@pytest.fixture
def fails(generate, tmp_path):
    """Run the command, which must fail with one line and write nothing; gives the exit code and the line."""

    def call(*more, **options) -> tuple[int, str]:
        before = sorted(tmp_path.rglob("*"))
        code, out, err = generate("-q", *more, **options)
        assert out == "" and err.startswith("error: ") and err.count("\n") == 1, err
        assert sorted(tmp_path.rglob("*")) == before
        return code, err

    return call


def pixels(path: Path) -> np.ndarray:
    with open_slide(path) as slide:
        return slide.read(0, 0, slide.width, slide.height)


def levels_apart(a, b) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


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


def test_a_region_is_embedded_once(generate, cache, tmp_path):
    assert generate("--region", "512,384", "--tissue-threshold", 0.06)[0] == 0
    (file,) = [p for p in cache.iterdir() if EmbeddingFile(p).settings.tissue_filter == "saturation > 0.06"]
    assert EmbeddingFile(file).settings.region == (6, 8, 2, 2)
    before = file.stat()
    code, _, err = generate("--region", "520,390", "--tissue-threshold", 0.06, out="b.png")  # the same tiles
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
    code, out, _ = generate("--cache", cache, "--json", size="full")
    assert json.loads(out)["denoiser_calls"] == plan["denoiser_calls"]


# What is refused


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--size", 0], ["--size 0x0", "64 px and multiples of 8"]),
        (["--size", 129], ["--size 129x129", "multiples of 8"]),
        (["--size", 1344], ["largest size that fits is 1296x1000"]),
        (["--size", "big"], ["--size big"]),
        (["--region", "100000,0"], ["--region 100000,0", "from 0,0 to 1152,832"]),
        (["--region", "here"], ["--region here"]),
        (["--region", "0,0"], ["no tile holds tissue", "--no-tissue-filter"]),
        (["--model", "absent"], ["absent: no model there"]),
        (["--batch-size", "0"], ["--batch-size 0"]),
        (["--batch-size", "many"], ["--batch-size many"]),
        (["--scheduler", "euler"], ["ddim, dpm++, unipc"]),
        (["--windows", "overlap", "--stride", 9], ["--stride 9", "window of 8"]),
        (["--windows", "shift", "--stride", 4], ["--stride 4", "overlap"]),
        (["--steps", 61], ["--steps 61", "60"]),
        (["--mag", 20, "--mpp", 0.5], ["--mpp"]),
        (["--gsd", 1], ["pixel size in metres"]),
        (["--embeddings", "b.h5"], ["--ref", "--embeddings"]),
        (["--out", "a.bmp"], ["a.bmp", ".ome.tif"]),
        (["--encoder-weights", "absent.pth"], ["absent.pth"]),
    ],
)
def test_wrong_input_is_one_line_and_code_2(fails, more, words):
    code, line = fails(*more)
    assert code == 2 and all(word in line for word in words), line


@pytest.mark.parametrize("part", ["vae", "unet", "conditioner", "encoder", "scheduler"])
def test_a_model_that_lacks_a_part(fails, model, tmp_path, part):
    shutil.copytree(model, tmp_path / "model")
    missing = "scheduler_config.json" if part == "scheduler" else "*.safetensors"
    next((tmp_path / "model" / part).glob(missing)).unlink()
    code, line = fails("--model", tmp_path / "model")
    assert code == 2 and f"model/{part}" in line


def test_a_model_of_another_shape(fails, model, tmp_path):
    shutil.copytree(model, tmp_path / "model")
    file = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["conv_out.bias"] = weights["conv_out.bias"][:-1]
    save_file(weights, file)
    code, line = fails("--model", tmp_path / "model")
    assert code == 2 and "conv_out.bias" in line


def test_no_reference(fails):
    assert "--ref SLIDE or --embeddings" in fails(ref=None)[1]


def test_options_of_slides_do_not_suit_embeddings(fails):
    assert "options of --ref only" in fails("--embeddings", "a.h5", "--mpp", 0.5, ref=None)[1]


def test_a_reference_that_is_missing_or_no_slide(fails, tmp_path):
    assert "absent.svs" in fails(ref=tmp_path / "absent.svs")[1]
    (tmp_path / "text.svs").write_text("not a slide")
    assert "text.svs" in fails(ref=tmp_path / "text.svs")[1]


def test_a_reference_without_tissue(fails, tmp_path):
    noise = np.random.default_rng(0).normal(GLASS, 1.5, (300, 300, 1)).clip(0, 255).astype(np.uint8)
    glass = save_slide(tmp_path / "glass.tif", noise.repeat(3, axis=2), 0.5)
    for size in (128, "full"):
        code, line = fails(ref=glass, size=size)
        assert code == 2 and "no tile holds tissue" in line


def test_a_reference_smaller_than_a_tile(fails, make_slide):
    code, line = fails(ref=make_slide(60, 200))
    assert code == 2 and "smaller than one tile of 64 px" in line


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoder_fingerprint": "beef"}, ["beef", "trained with"]),
        ({"tile_px": 32}, ["tiles of 32 px", "64 px"]),
        ({"width": 8}, ["8-dimensional", "needs 16"]),
        ({"complete": False}, ["incomplete"]),
    ],
)
def test_embeddings_of_something_else(fails, generate, cache, tmp_path, change, words):
    generate()
    file = shutil.copy(next(cache.glob("*.h5")), tmp_path / "b.h5")
    with h5py.File(file, "r+") as content:
        content.attrs.update(change)
        if "width" in change:
            for name in ("features", "background"):
                values = content[name][..., :8]
                del content[name]
                content[name] = values
    code, line = fails("--embeddings", file, ref=None, out="c.png")
    assert code == 2 and all(word in line for word in words), line


def test_an_existing_output_is_refused_before_any_work(fails, tmp_path):
    (tmp_path / "a.png").write_bytes(b"mine")
    code, line = fails("--model", "absent", ref="absent.svs")
    assert code == 1 and "--overwrite" in line


def test_an_output_that_cannot_be_written(fails, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    code, line = fails(out="file/a.png")
    assert code == 1 and "not a directory" in line
    assert fails("--out", "/proc/a.png")[0] == 1


def test_two_at_once(fails, tmp_path):
    with lock(tmp_path / "a.png"):
        code, line = fails()
    assert code == 1 and "writing this output already" in line


# Interrupted and shared between processes


def start(arguments: list[str], *launcher: str) -> subprocess.Popen:
    command = [sys.executable, "-m", *launcher, "largegen", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    for _ in range(20_000):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    pytest.fail(f"{path} did not appear")


LONG = ("--steps", 50, "--save-every", 0)


def test_a_killed_run_goes_on_to_the_same_image(arguments, generate, tmp_path):
    first = start(arguments(*LONG))
    wait_for(tmp_path / ".a.png.partial", first)
    first.kill()
    first.communicate()
    assert not (tmp_path / "a.png").exists() and (tmp_path / "a.png.lock").exists()
    code, out, err = generate(*LONG)
    assert code == 0 and out == f"{tmp_path / 'a.png'}: 128x128 px\n"
    assert "resuming after step" in err
    assert {p.name for p in tmp_path.iterdir()} == {"a.png", "a.png.json"}
    assert generate(*LONG, out="whole.png")[0] == 0
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "whole.png"))


def test_ctrl_c(arguments, tmp_path):
    process = start(arguments(*LONG))
    wait_for(tmp_path / ".a.png.partial", process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 130 and out == ""
    assert err.splitlines()[-1].startswith("interrupted; the same command again resumes where it stopped")
    assert "Traceback" not in err
    assert [p.name for p in tmp_path.iterdir()] == [".a.png.partial"]


def test_two_processes_make_the_same_image(arguments, generate, tmp_path):
    command = arguments("--cache", tmp_path / "cache", "--batch-size", 3, "--windows", "overlap", "--json")
    both = start(command, "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m")
    out, err = both.communicate(timeout=200)
    assert both.returncode == 0, err
    assert json.loads(out)["out"] == str(tmp_path / "a.png")  # printed once
    assert {p.name for p in tmp_path.iterdir()} == {"a.png", "a.png.json", "cache"}
    assert generate("--batch-size", 8, "--windows", "overlap", out="b.png")[0] == 0
    assert levels_apart(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png")) <= 1
