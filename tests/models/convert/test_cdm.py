"""ZoomLDM's conditioning diffusion models: read, checked, and sampled as published."""

import argparse
import json
import shutil

import pytest
import torch
from helpers.commands import assert_one_line
from PIL import Image
from safetensors.torch import load_file

from largegen.cli import run
from largegen.errors import InputError, ModelError
from largegen.models.convert.cdm import check_cdm, read_cdm
from largegen.models.dit import positions
from largegen.models.storage import save_network
from largegen.models.token_prior import SCHEDULE, TokenPrior, load_token_prior
from largegen.sampling.tokens import ddim, sample_tokens
from largegen.slides.image_info import read_provenance


@pytest.fixture(scope="module")
def folder(shared):
    return shared / "reference" / "cdm"


@pytest.fixture(scope="module")
def published(folder):
    return read_cdm(folder / "000-DiT-S")[0]


@pytest.fixture(scope="module")
def expected(folder):
    return load_file(folder / "expected.safetensors")


def test_one_call_is_the_published_one(published, expected):
    inputs = (expected[f"dit.{name}"] for name in ("tokens", "timestep", "level"))
    for found, name in zip(published(*inputs), ("x0", "variance"), strict=True):
        assert torch.allclose(found, expected[f"dit.{name}"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", [20, 200])
def test_a_run_is_the_published_one(published, expected, steps):
    run = {name: expected[f"ddim{steps}.{name}"] for name in ("noise", "level", "tokens")}
    found = ddim(published, run["noise"], run["level"], steps)
    assert (found - run["tokens"]).norm() / run["tokens"].norm() < 1e-5


def test_the_schedule_is_the_published_one(expected):
    assert torch.allclose(SCHEDULE.alphas_cumprod.double(), expected["schedule.alphas_cumprod"], atol=1e-5)


def checkpoint(path, width=32, seed=0, token_dim=16, **changes):
    """Write what the training script writes, with random weights."""
    torch.manual_seed(seed)
    network = TokenPrior(token_dim, width, 2, 1, 4)
    state = {name.removeprefix("network."): 0.1 * torch.randn_like(v) for name, v in network.state_dict().items()}
    state["y_embedder.embedding_table.weight"] = state.pop("level.weight")
    state["pos_embed"] = positions(torch.arange(65.0)[:, None], width)[None]
    averaged = {name: value if name == "pos_embed" else value + 0.01 for name, value in state.items()}
    content = {"model": state, "ema": averaged, "opt": {"state": {}}, "args": argparse.Namespace(model="DiT-S")}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content | changes, path)
    return path


def test_the_averaged_weights_are_taken_unless_others_are_asked_for(tmp_path):
    checkpoint(tmp_path / "checkpoints" / "0010.pt")
    (averaged, file), (raw, _) = read_cdm(tmp_path), read_cdm(tmp_path, raw_weights=True)
    assert file.name == "0010.pt" and averaged.config.layers == 2 and averaged.config.levels == 4
    assert torch.allclose(averaged.level.weight, raw.level.weight + 0.01)


def test_patches_do_not_depend_on_how_many_there_are(tmp_path):
    network, _ = read_cdm(checkpoint(tmp_path / "0010.pt"))
    many = sample_tokens(network, 1, 10, 3)
    assert many.shape == (10, 65, 16) and torch.allclose(sample_tokens(network, 1, 3, 3), many[:3], atol=1e-5)
    assert not torch.allclose(many[0], many[1])
    with pytest.raises(InputError, match="`level` 4: the CDM has levels 0 to 3"):
        sample_tokens(network, 4, 1, 0)


def test_several_files_are_not_guessed_among(tmp_path):
    for name in ("1.pt", "2.pt"):
        checkpoint(tmp_path / "checkpoints" / name)
    with pytest.raises(InputError, match=r"holds 2 checkpoints \(1\.pt, 2\.pt\); name the file"):
        read_cdm(tmp_path)


@pytest.mark.parametrize("change", [{"ema": {"a": torch.ones(2)}}, {"ema": {}}, {"ema": 3}])
def test_other_checkpoints_are_one_line(tmp_path, change):
    with pytest.raises(ModelError) as raised:
        read_cdm(checkpoint(tmp_path / "0010.pt", **change))
    assert "\n" not in str(raised.value)


def test_other_positions_are_refused(tmp_path):
    path = checkpoint(tmp_path / "0010.pt")
    content = torch.load(path, weights_only=False)
    content["ema"]["pos_embed"] += 1
    torch.save(content, path)
    with pytest.raises(ModelError, match="its positions are not the published ones"):
        read_cdm(path)


def test_a_cdm_of_another_model_is_refused(tmp_path, zoom_model):
    network, file = read_cdm(checkpoint(tmp_path / "0010.pt"))
    with pytest.raises(InputError, match="its width of tokens is 16, but the model's 32"):
        check_cdm(network, zoom_model.unet, zoom_model.conditioner, file)
    with pytest.raises(InputError, match="goes with a denoiser and its Summarizer"):
        check_cdm(network, None, None, file)


@pytest.fixture(scope="module")
def with_cdm(zoom_model_path, tmp_path_factory):
    """A tiny model of four magnifications, with a CDM of random weights."""
    folder = tmp_path_factory.mktemp("cdm")
    file = checkpoint(folder / "0010.pt", token_dim=32)
    shutil.copytree(zoom_model_path, folder / "model")
    save_network(read_cdm(file)[0], folder / "model" / "cdm", None)
    return folder / "model"


def test_sample_needs_no_reference(with_cdm, tmp_path, capfd):
    out = tmp_path / "sheet.png"
    command = ["sample", "--model", str(with_cdm), "--level", "2", "-n", "3", "--steps", "2", "--device", "cpu"]
    assert run([*command, "--out", str(out)]) == 0
    assert "guidance 1.75" in capfd.readouterr().err
    record = read_provenance(out)
    assert record["sampling"]["guidance"] == 1.75 and record["patches"] == 3 and record["level"] == 2
    assert record["imagined"]["prior"] == "CDM of tiny" and "reference" not in record
    assert Image.open(out).size == (3 * 64 + 2 * 4, 64)


def test_a_guidance_that_is_given_is_kept_even_if_it_is_the_default(with_cdm, tmp_path):
    command = ["sample", "--model", str(with_cdm), "-n", "1", "--steps", "1", "--device", "cpu", "--guidance", "1.5"]
    assert run([*command, "--out", str(tmp_path / "a.png")]) == 0
    assert read_provenance(tmp_path / "a.png")["sampling"]["guidance"] == 1.5


@pytest.mark.parametrize("command", ["generate", "zoom"])
def test_a_large_image_needs_a_grid_prior(with_cdm, tmp_path, capfd, command):
    options = ["--model", str(with_cdm), "--size", "256", "--device", "cpu", "--out", str(tmp_path / "a.png"), "-q"]
    assert run([command, *options]) == 2
    assert_one_line(capfd.readouterr().err, "one patch at a time", "--prior", "largegen train-prior")


def test_convert_takes_the_denoiser_and_its_cdm(shared, folder, tmp_path):
    source = shared / "reference" / "zoomldm"
    about = ["--encoder", "own:encoder", "--embedding-dim", "48"]
    options = ["--cdm", folder / "000-DiT-S", "--out", tmp_path / "model", "--mag", 20]
    assert run(["convert", str(source), *about, *map(str, options)]) == 0
    cdm = load_token_prior(tmp_path / "model", torch.device("cpu"))
    assert cdm is not None and cdm.config.token_dim == 64 and cdm.config.levels == 8
    assert json.loads((tmp_path / "model" / "model_index.json").read_text())["cdm"] == "TokenPrior"
    command = ["sample", "--model", tmp_path / "model", "--mag", 5, "-n", 2, "--steps", 2, "--device", "cpu"]
    assert run([*map(str, command), "--out", str(tmp_path / "sheet.png")]) == 0
