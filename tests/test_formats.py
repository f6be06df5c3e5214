"""Files that version 0.1.0 wrote are still read: a model directory, an embedding file and an image."""

import json
import shutil

import pytest
import torch
from helpers import TESTS

from largegen import load_model, read_grid
from largegen.cli import run
from largegen.conditioning.suitable import check_embeddings
from largegen.embeddings.file import EmbeddingFile
from largegen.embeddings.grid import SourceInfo
from largegen.models.directory import INDEX, read_index
from largegen.models.info import ModelInfo, TrainingSlide
from largegen.slides.image_info import read_provenance
from largegen.slides.slide import open_slide

FILES = TESTS / "data" / "0.1.0"
EMBEDDINGS, IMAGE = FILES / "embeddings.h5", FILES / "image.tif"
SOURCE = SourceInfo("slide", "/tmp/oldv/slide.tif", "slide", 512, 384, (243, 243, 243), mpp=0.5)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A model of preset tiny at two magnifications; its weights are a short pattern, so that the archive is small."""
    folder = tmp_path_factory.mktemp("model")
    shutil.unpack_archive(FILES / "model.zip", folder)
    return folder / "model"


def test_the_model_gives_the_same_numbers(directory):
    model = load_model(directory, "cpu", "fp32")
    latents = torch.linspace(-1, 1, model.autoencoder.channels * 64).reshape(1, -1, 8, 8)
    context = model.context(torch.from_numpy(read_grid(EMBEDDINGS).features[None, 1:3, 1:3]), level=1)
    expected = {
        "context": (context, [2.2271576, -0.6582031, -0.7144971, -0.1598789]),
        "noise": (model.eps(latents, 500, context), [0.7014185, -0.6421547, -0.2918313, -0.1104362]),
        "pixels": (model.autoencoder.decode(latents), [0.3652565, -1.2142290, -0.1459825, 0.4043097]),
    }
    for name, (found, numbers) in expected.items():
        assert found.flatten()[:4].tolist() == pytest.approx(numbers, abs=1e-4), name
    assert model.linear_decoder is not None and model.level_names == ["20x", "10x"]


def test_what_the_model_says_of_itself(directory):
    index = read_index(directory)
    assert index.parts == {"vae": "ResidualAutoencoder", "unet": "UNet2DConditionModel", "conditioner": "Summarizer"}
    assert index.info == ModelInfo(
        name="tiny",
        largegen_version="0.1.0",
        encoder="local-dir:encoder",
        encoder_fingerprint="caca6ce4",
        encoder_licence="CC-BY-4.0",
        licence="CC0-1.0",
        embedding_dim=16,
        tile_px=64,
        trained_on=(TrainingSlide("slide", 36, mpp=0.5),),
    )
    assert index.info.as_dict() == json.loads((directory / INDEX).read_text())["info"]


def test_the_embedding_file(directory):
    file = EmbeddingFile(EMBEDDINGS)
    assert (file.count, file.dim, file.settings.region) == (36, 16, (0, 0, 6, 8))
    grid = file.grid()
    assert grid.features.shape == (6, 8, 16) and grid.tissue.sum() == 36
    assert grid.features.mean() == pytest.approx(0.00018937, abs=1e-6)
    assert (grid.source, grid.downsample, grid.tile_px, grid.licence) == (SOURCE, 1.0, 64, "CC-BY-4.0")
    check_embeddings(load_model(directory, "cpu"), file)


def test_the_image():
    with open_slide(IMAGE) as image:
        assert (image.width, image.height, image.mpp) == (64, 64, 0.5)
        assert image.read(0, 0, 64, 64).std() > 10
    made_by = read_provenance(IMAGE)
    assert (made_by["model"], made_by["reference"], made_by["reference_xy"]) == ("tiny", "slide", [192, 128])
    assert made_by["sampling"]["steps"] == 2 and made_by["licence"] == "CC-BY-4.0 and CC0-1.0"


def test_images_are_made_of_them(directory, tmp_path):
    out = tmp_path / "image.png"
    options = ["--model", directory, "--embeddings", EMBEDDINGS, "--size", 64, "--steps", 2, "--device", "cpu"]
    assert run(["generate", *map(str, options), "--out", str(out)]) == 0 and out.is_file()


def test_keys_of_other_versions_are_kept():
    stated = {"name": "later", "encoder": "uni_v1", "encoder_fingerprint": None, "trained_on": []}
    later = stated | {"trained_on": [{"name": "a", "tiles": 1, "mpp": None, "gsd_m": 0.6, "stain": "H&E"}], "tissue": 3}
    info = ModelInfo.from_dict(later)
    assert info.more == {"tissue": 3} and info.trained_on[0].more == {"stain": "H&E"}
    assert info.as_dict() == later
    assert ModelInfo.from_dict(stated).as_dict() == stated
