"""What `largegen generate` refuses, in one line and before any work."""

import shutil

import h5py
import numpy as np
import pytest
from helpers.slides import GLASS, save_slide
from safetensors.torch import load_file, save_file

from largegen.runtime.lock import lock


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--size", 0], ["--size 0x0", "64 px and multiples of 8"]),
        (["--size", 129], ["--size 129x129", "multiples of 8"]),
        (["--size", 1344], ["largest size that fits is 1296x1000"]),
        (["--size", "big"], ["--size big"]),
        (["--region", "100000,0"], ["--region 100000,0", "from 0,0 to 1172,872"]),
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
