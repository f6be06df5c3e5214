"""What train-vae, train-encoder and train make."""

import json

import h5py
import numpy as np
import pytest
import torch
from helpers.training import losses, names
from helpers.training_commands import LOOP, RUN, fails, words
from PIL import Image
from safetensors.torch import load_file

from largegen.cli import run
from largegen.embeddings.file import EmbeddingFile
from largegen.models.encoder import load_encoder
from largegen.models.model import load_model
from largegen.models.storage import WEIGHTS
from largegen.training.log import read_metrics


def test_train_vae_learns_and_measures(vae):
    found = losses(vae)
    assert len(found) == 40 and np.mean(found[-5:]) < 0.75 * np.mean(found[:5])
    last = read_metrics(vae / "metrics.jsonl")[-1]
    assert last["validation_psnr"] > 10
    config = json.loads((vae / "model" / "vae" / "config.json").read_text())
    assert len(config["latents_mean"]) == len(config["latents_std"]) == 4 and min(config["latents_std"]) > 0


def test_train_vae_makes_one_that_leaves_no_lattice(slide, tmp_path):
    """The default is a LocalAutoencoder; after two steps it is still near the best linear one."""
    command = words("train-vae --steps 2 --batch-size 2 --crop-px 64 --validation 0.2", slide)
    assert run([*command, *LOOP, *words("--validate-every 2 --out", tmp_path / "vae")]) == 0
    config = json.loads((tmp_path / "vae" / "model" / "vae" / "config.json").read_text())
    assert config["_class_name"] == "LocalAutoencoder" and len(config["latents_std"]) == 16
    assert read_metrics(tmp_path / "vae" / "metrics.jsonl")[-1]["validation_psnr"] > 15


def test_train_vae_with_a_perceptual_distance(slide, tmp_path, capsys, monkeypatch):
    pytest.importorskip("stlpips_pytorch", reason="carries the weights: install largegen[perceptual]")
    command = words("train-vae --preset tiny --steps 1 --batch-size 4 --perceptual 0.5", slide)
    assert run([*command, *LOOP, "--out", str(tmp_path / "a")]) == 0
    first = read_metrics(tmp_path / "a" / "metrics.jsonl")[0]
    parts = first["l1"] + first["stain"] + 0.2 * first["dissimilarity"] + 1e-6 * first["kl"]
    assert first["lpips"] > 0.01 and first["loss"] == pytest.approx(parts + 0.5 * first["lpips"], rel=1e-4)
    kept = sum(file.stat().st_size for file in (tmp_path / "a").rglob("*.*") if file.is_file())
    assert kept < 10e6  # of a run whose network of 59 MB is nobody's to keep
    monkeypatch.setattr("largegen.models.perceptual.find_spec", lambda _: None)
    fails(capsys, [*command, *LOOP, "--out", str(tmp_path / "b")], 2, "largegen[perceptual]")


def test_train_encoder_makes_an_encoder(encoder):
    loaded = load_encoder(f"local-dir:{encoder / 'model'}", device="cpu")
    assert loaded.dim == 16 and loaded.spec.licence == "CC0-1.0"
    lines = read_metrics(encoder / "metrics.jsonl")
    assert all(0 <= line["retrieval"] <= 1 for line in lines if "retrieval" in line)
    assert Image.open(next((encoder / "samples").iterdir())).size[0] > 100


def test_train_makes_a_model(short, embeddings):
    assert names(short) == RUN
    assert names(short / "model") == [
        "conditioner",
        "encoder",
        "known_embeddings.safetensors",
        "linear_decoder.safetensors",
        "model_index.json",
        "scheduler",
        "unet",
        "vae",
    ]
    model = load_model(short, "cpu")
    assert (model.window, model.tile_px, model.info.embedding_dim) == (8, 64, 16)
    assert model.info.name == "short" and model.info.licence == model.info.encoder_licence == "CC0-1.0"
    assert model.info.trained_on[0].name == "a" and model.info.trained_on[0].mpp == 0.5
    sheet = np.asarray(Image.open(short / "samples" / "step-000004.png"))
    assert sheet.shape == (2 * 64 + 4, 8 * 64 + 7 * 4, 3) and sheet.std() > 5
    assert "validation_loss" in read_metrics(short / "metrics.jsonl")[-1]
    task = json.loads((short / "config.json").read_text())["task"]
    with h5py.File(embeddings / "a.h5") as file:
        count = len(file["features"])
    training, validation = task["regions"][0], task["validation_regions"][0]
    assert 0 < validation < training and training + validation <= count


def test_the_model_knows_what_it_was_trained_on(short, embeddings):
    known = load_model(short, "cpu", "fp32").known
    features = torch.from_numpy(EmbeddingFile(embeddings / "a.h5").features())
    assert len(features) >= 160
    assert known.unlike(features) <= 0.01 * len(features)
    assert known.unlike(-features) == len(features)


def test_the_denoiser_learns(trained):
    found = losses(trained)
    assert np.mean(found[-10:]) < 0.85 * np.mean(found[:10])


def test_init_from_starts_where_the_other_ended(train, trained, short, tmp_path):
    assert run(train("--out", tmp_path, "--init-from", trained)) == 0
    assert losses(tmp_path)[0] < 0.85 * losses(short)[0]
    info = load_model(tmp_path, "cpu").info
    assert info.init_from == "trained" and info.licence == "CC0-1.0; CC-BY-4.0"


def test_weights_are_as_readable_as_other_files(vae, encoder, short):
    (short / "usual").touch()
    usual = (short / "usual").stat().st_mode
    (short / "usual").unlink()
    found = {file: file.stat().st_mode for out in (vae, encoder, short) for file in out.glob("model/**/*.safetensors")}
    assert len(found) == 8 and set(found.values()) == {usual}


def test_the_model_has_the_autoencoder_that_it_was_given(short, vae):
    given, kept = (load_file(out / "vae" / WEIGHTS) for out in (vae / "model", short / "model"))
    assert all(torch.equal(given[name], kept[name]) for name in given)


def test_fp16_export_and_latents_computed_once(train, short, tmp_path, folder):
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "latents").iterdir()}
    assert run(train("--out", tmp_path, "--export-precision", "fp16", "--name", "small")) == 0
    assert {path.name: path.stat().st_mtime_ns for path in (folder / "latents").iterdir()} == before
    half, full = ((out / "model/unet/diffusion_pytorch_model.safetensors").stat().st_size for out in (tmp_path, short))
    assert half < 0.6 * full
    assert load_model(tmp_path, "cpu").info.name == "small"


def test_dry_runs_write_nothing(train, slide, tmp_path, capsys):
    commands = [
        train("--cache", tmp_path / "cache"),
        [*words("train-vae --preset tiny --steps 4 --batch-size 8", slide), *LOOP],
        [*words("train-encoder --architecture test_resnet --steps 4 --batch-size 8 --tile-px 64", slide), *LOOP],
    ]
    for command in commands:
        capsys.readouterr()
        assert run([*command, "-n", "--out", str(tmp_path / "out")]) == 0
        report = json.loads(capsys.readouterr().out)
        assert (
            report["samples"] == 32
            and report["parameters"] > 1000
            and max(report["task"].get("regions", [0])[0], report["task"].get("tiles", 0)) > 0
        )
        assert report["config"]["steps"] == 4 and report["disk_mb"] > report["checkpoint_mb"] > 0
    assert names(tmp_path) == []


def test_json_result(train, tmp_path, capsys):
    assert run(train("--out", tmp_path / "run", "--json")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["model"] == str(tmp_path / "run" / "model") and report["steps"] == 4
    assert report["loss"] == losses(tmp_path / "run")[-1] and report["validation_loss"] > 0
