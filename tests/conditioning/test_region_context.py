"""Models of two embeddings per tile: each tile goes with the wider region that it lies in."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from helpers.models import WIDTH, flat_grid, save_encoder, save_model
from PIL import Image

from largegen import generate, load_model
from largegen.cli import run
from largegen.conditioning.region_context import context_features
from largegen.embeddings.file import EmbeddingFile
from largegen.models.conditioners import PatchRegionConditioner

REGION_WIDTH = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def region_encoder(folder):
    return f"local-dir:{save_encoder(folder / 'region-encoder', seed=1, width=REGION_WIDTH)}"


@pytest.fixture(scope="module")
def model(folder, region_encoder):
    """The directory of a model that takes both."""
    found = load_model(save_model(folder / "one", save_encoder(folder / "encoder")), "cpu", "fp32")
    torch.manual_seed(2)
    found.conditioner = PatchRegionConditioner(WIDTH, REGION_WIDTH, found.unet.config.cross_attention_dim)
    found.info = replace(found.info, region_encoder=region_encoder)
    found.save(folder / "two", encoder=folder / "encoder")
    return folder / "two"


def coordinates(rows, cols):
    """An embedding for each tile that is its own row and column."""
    return np.stack(np.mgrid[0:rows, 0:cols], -1).astype(np.float32)


def test_each_tile_lies_in_its_region(model):
    loaded = load_model(model, "cpu", "fp32")
    tiles = flat_grid(loaded, 9, 10, origin_xy=(64 * 2 * 4, 0), downsample=2.0)  # begins at the second region's column
    wider = replace(flat_grid(loaded, 2, 3, downsample=8.0, origin_xy=(0, 0)), features=coordinates(2, 3))
    around = context_features(tiles, wider)
    assert around[..., 0].tolist() == [[0] * 10] * 4 + [[1] * 10] * 5  # past the last region: the last
    assert around[..., 1].tolist() == [[1] * 4 + [2] * 6] * 9


def test_the_region_matters_and_may_be_left_out(model):
    loaded = load_model(model, "cpu", "fp32")
    tiles = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(0))
    region = torch.randn(2, 3, REGION_WIDTH, generator=torch.Generator().manual_seed(1))
    images = [
        generate(loaded, torch.cat([tiles, more], -1), steps=2)
        for more in (region, torch.zeros_like(region), torch.zeros(2, 3, 0))
    ]
    assert not np.array_equal(images[0], images[1])
    assert np.array_equal(images[1], images[2])
    with pytest.raises(ValueError, match=rf"must be \(rows, columns, {WIDTH + REGION_WIDTH}\)"):
        generate(loaded, torch.zeros(2, 3, WIDTH + 1))


@pytest.fixture
def call(model, tmp_path, capfd):
    """Run `generate` for 192 px: exit code and what it says."""

    def call(*more, out="a.png"):
        capfd.readouterr()
        options = ["--model", model, "--out", tmp_path / out, "--steps", 2, "--device", "cpu", "--size", 192]
        code = run(["generate", *map(str, [*options, "--cache", tmp_path, *more])])
        return code, capfd.readouterr().err

    return call


def test_from_a_slide_and_from_files(call, model, region_encoder, slide_path, tmp_path):
    """A slide's regions are embedded at a quarter of the resolution, as by hand."""
    assert call("--ref", slide_path)[0] == 0
    regions = [f for f in map(EmbeddingFile, tmp_path.glob("*.h5")) if f.dim == REGION_WIDTH]
    assert [f.settings.downsample for f in regions] == [4.0]
    for encoder, name, mpp in ((f"local-dir:{model / 'encoder'}", "tiles", 0.5), (region_encoder, "regions", 2)):
        options = ["--encoder", encoder, "--out", tmp_path / name, "--tile-px", 64, "--mpp", mpp, "--device", "cpu"]
        assert run(["embed", str(slide_path), *map(str, options)]) == 0
    file = tmp_path / "regions" / f"{slide_path.stem}.h5"
    code, error = call("--ref", slide_path, "--region-embeddings", file, out="b.png")
    assert code == 0 and "made at" not in error and "of a slide of" not in error
    assert call("--ref", slide_path, "--no-region", out="c.png")[0] == 0
    for path, wrong in ((tmp_path / "tiles.h5", {"downsample": 2.0}), (tmp_path / "other.h5", {"source_width": 9000})):
        shutil.copy(file, path)
        with h5py.File(path, "r+") as copy:
            copy.attrs.update(wrong)
            copy["coords"][:] = copy["coords"][:] // (4.0 / wrong.get("downsample", 4.0))
        code, error = call("--ref", slide_path, "--region-embeddings", path, out=f"{path.stem}.png")
        assert code == 0 and ("made at 2 times" in error) == ("downsample" in wrong)
        assert ("of a slide of 9000x1000 px" in error) == ("source_width" in wrong)
    by_itself, by_file, without = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in "abc")
    assert np.array_equal(by_itself, by_file) and not np.array_equal(by_itself, without)


@pytest.fixture
def says(model):
    """Let the model's index name another region encoder while the test runs."""
    path = model / "model_index.json"
    before = path.read_text()

    def says(region_encoder):
        index = json.loads(before)
        path.write_text(json.dumps(index | {"info": index["info"] | {"region_encoder": region_encoder}}))

    yield says
    path.write_text(before)


def test_a_region_encoder_s_weights_may_be_a_file(call, says, region_encoder, slide_path, tmp_path):
    """CTransPath's and HIPT's are on no hub."""
    assert call("--ref", slide_path)[0] == 0
    directory = Path(region_encoder.removeprefix("local-dir:"))
    shutil.copytree(directory, tmp_path / "e", ignore=shutil.ignore_patterns("*.safetensors"))
    says(f"local-dir:{tmp_path / 'e'}")
    weights = ["--region-encoder-weights", directory / "model.safetensors"]
    code, error = call("--ref", slide_path, out="b.png")
    assert code == 2 and "holds no model.safetensors" in error
    assert call("--ref", slide_path, *weights, out="b.png")[0] == 0
    own, given = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in "ab")
    assert np.array_equal(own, given)


def test_a_missing_region_encoder_is_told_before_the_long_work(call, says, slide_path, tmp_path):
    says("ctranspath")
    code, error = call("--ref", slide_path)
    assert code == 2 and "download ctranspath.pth from" in error and "give --region-encoder-weights FILE" in error
    assert not list(tmp_path.glob("*.h5"))
    code, error = call("--ref", slide_path, "--region-encoder-weights", tmp_path / "absent.pth")
    assert code == 2 and "absent.pth" in error


def test_a_region_must_come_from_somewhere(call, model, says, slide_path, tmp_path):
    weights = ["--region-encoder-weights", tmp_path / "w.pth"]
    says(None)
    for more in ([], weights):
        code, error = call("--ref", slide_path, *more)
        assert code == 2 and "give --region-embeddings FILE.h5" in error and "--no-region" in error
    options = ["--encoder", f"local-dir:{model / 'encoder'}", "--out", tmp_path, "--tile-px", 64, "--device", "cpu"]
    assert run(["embed", str(slide_path), *map(str, options)]) == 0
    tiles = tmp_path / f"{slide_path.stem}.h5"
    code, error = call("--ref", slide_path, "--region-embeddings", tiles)
    assert code == 2 and f"needs {REGION_WIDTH}-dimensional ones of regions" in error
    for more in (["--region-embeddings", tiles, "--no-region"], [*weights, "--no-region"]):
        code, error = call("--ref", slide_path, *more)
        assert code == 2 and f"{more[0]}, --no-region: give only one of them" in error
    for more in (["--no-region"], weights):
        code, error = call("--ref", slide_path, *more, "--model", model.parent / "one")
        assert code == 2 and f"{more[0]}: model tiny takes no embeddings of regions" in error
    code, error = call("--embeddings", tiles, *weights)
    assert code == 2 and "options of --ref only" in error
