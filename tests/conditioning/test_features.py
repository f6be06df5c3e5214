"""`largegen features`: a denoiser's activations as embedding files."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from helpers.commands import assert_one_line
from helpers.slides import save_slide, tissue_like

from largegen import load_model
from largegen.cli import run
from largegen.conditioning.features import FeatureExtractor
from largegen.embeddings.file import EmbeddingFile
from largegen.errors import InputError
from largegen.models.denoiser_features import DenoiserFeatures
from largegen.models.encoder import load_encoder
from largegen.models.feature_options import FeatureOptions
from largegen.models.pixels import to_network
from largegen.slides.resolution import UNKNOWN
from largegen.slides.slide import open_slide


@pytest.fixture(scope="module")
def model(zoom_model_path):
    """Tiles of 64 px at 20x, 10x, 5x, 2.5x; two resolutions of 16 and 32 channels."""
    return load_model(zoom_model_path, "cpu", "fp32")


@pytest.fixture(scope="module")
def encoder(model):
    return load_encoder(f"local-dir:{model.directory / 'encoder'}", device="cpu")


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory):
    """580x390 px at 0.5 um, all tissue: 9x6 tiles of 64 px."""
    path = tmp_path_factory.mktemp("features") / "slide.tif"
    save_slide(path, tissue_like(580, 390), 0.5)
    return path


def tiles(count: int, side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize(("block", "dim"), [("down0", 16), ("mid", 32), ("up0", 32), ("up1", 16), ("last", 16)])
def test_features_are_the_mean_activations_of_the_block(model, block, dim):
    options = FeatureOptions(block=block, timestep=100, condition="null")
    extractor, images = DenoiserFeatures(model, 0, options), tiles(3, 64)
    seen = []
    found = extractor.encode(images)
    unet = model.unet
    blocks = {"down0": unet.down_blocks[0], "mid": unet.mid_block, "up0": unet.up_blocks[0], "up1": unet.up_blocks[1]}
    blocks["last"] = blocks["up1"]
    handle = blocks[block].register_forward_hook(
        lambda m, i, out: seen.append(out[0] if isinstance(out, tuple) else out)
    )
    a = model.scheduler.alphas_cumprod[100]
    noise = torch.randn(1, model.autoencoder.channels, 8, 8, generator=torch.Generator().manual_seed(0))
    noisy = a.sqrt() * model.autoencoder.encode(to_network(images)) + (1 - a).sqrt() * noise
    model.eps(noisy, 100, model.null_context().expand(3, -1, -1))
    handle.remove()
    assert found.shape == (3, dim) and found.dtype == np.float32
    np.testing.assert_allclose(found, seen[0].mean((2, 3)).numpy(), atol=1e-5)


def test_the_own_condition_is_that_of_the_tiles_below(model, encoder):
    images = tiles(2, 256)
    extractor = DenoiserFeatures(model, 2, FeatureOptions(), encoder)
    parts = [images[0, y : y + 64, x : x + 64] for y in range(0, 256, 64) for x in range(0, 256, 64)]
    grid = torch.from_numpy(encoder.encode(np.stack(parts))).reshape(1, 4, 4, -1)
    torch.testing.assert_close(extractor._context(images[:1]), model.context(grid, 2), atol=1e-5, rtol=1e-5)
    null = DenoiserFeatures(model, 2, FeatureOptions(condition="null"))
    assert not np.allclose(extractor.encode(images), null.encode(images), atol=1e-4)
    np.testing.assert_allclose(extractor.encode(images)[1:], extractor.encode(images[1:]), atol=1e-5)


def test_more_noises_are_averaged(model):
    images = tiles(1, 64)
    one, four = (DenoiserFeatures(model, 0, FeatureOptions(noises=n, condition="null")).encode(images) for n in (1, 4))
    assert one.shape == four.shape and not np.allclose(one, four)


@pytest.mark.parametrize(
    ("options", "message"), [({"block": "up7"}, "down0, down1, mid, up0, up1"), ({"condition": "all"}, "own or null")]
)
def test_what_a_model_does_not_have(model, encoder, options, message):
    with pytest.raises(InputError, match=message):
        DenoiserFeatures(model, 0, FeatureOptions(**options), encoder)


def test_files_of_levels_and_of_all(model, slide_path, tmp_path):
    """9x6 tiles of 64 px, 3x2 tiles of 5x, the last of which stick out."""
    with open_slide(slide_path) as slide:
        paths = FeatureExtractor(model, ["5x", "20x"]).write(slide, tmp_path, target=UNKNOWN, progress=False)
    assert [path.parent.name for path in paths] == ["20x", "5x", "20x+5x"]
    fine, coarse, both = map(EmbeddingFile, paths)
    assert fine.settings.region[2:] == (6, 9) and coarse.settings.region[2:] == (2, 3)
    assert (fine.settings.tile_px, coarse.settings.tile_px, fine.settings.downsample) == (64, 256, 1.0)
    assert both.dim == fine.dim + coarse.dim == 32 and both.count == fine.count
    assert "20x up1" in both.settings.encoder and "5x up1" in both.settings.encoder
    where = {tuple(cell): row for cell, row in zip(coarse.cells, coarse.features(), strict=True)}
    wanted = np.stack([where[row // 4, col // 4] for row, col in fine.cells])
    np.testing.assert_array_equal(both.features(), np.concatenate([fine.features(), wanted], 1))


def test_the_command(capfd, zoom_model_path, slide_path, tmp_path):
    arguments = [
        "features",
        str(slide_path),
        "--model",
        str(zoom_model_path),
        "--out",
        str(tmp_path),
        "--levels",
        "10x",
    ]
    assert run([*arguments, "--condition", "null", "--device", "cpu", "--json"]) == 0
    made = json.loads(capfd.readouterr().out)["slides"][0]["files"]
    assert made == [str(tmp_path / "10x" / "slide.h5")]
    before = EmbeddingFile(made[0]).features()
    assert run([*arguments, "--condition", "null", "--device", "cpu", "--format", "csv"]) == 2
    assert_one_line(capfd.readouterr().err, "--format csv: h5 or h5ad")
    if find_spec("anndata"):
        assert run([*arguments, "--condition", "null", "--device", "cpu", "--format", "h5ad"]) == 0
        assert capfd.readouterr().out.splitlines() == [made[0], f"{made[0]}ad"]
    assert run([*arguments, "--condition", "null", "--device", "cpu"]) == 0
    assert "up to date, kept" in capfd.readouterr().err
    assert run([*arguments, "--condition", "own", "--device", "cpu"]) == 1
    assert_one_line(capfd.readouterr().err, "exists with other settings", "--overwrite")
    assert run([*arguments, "--condition", "own", "--device", "cpu", "--overwrite"]) == 0
    assert not np.array_equal(EmbeddingFile(made[0]).features(), before)
    capfd.readouterr()
    assert run([*arguments[:-1], "40x", "--device", "cpu"]) == 2
    assert_one_line(capfd.readouterr().err, "--levels 40x: model tiny has 20x, 10x, 5x, 2.5x")
