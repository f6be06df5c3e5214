"""`largegen convert`: what it takes, what it makes, and bad checkpoints are one line."""

import copy
import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel
from helpers.checkpoints import FOLDERS, save_checkpoint, with_params, with_unet
from safetensors.torch import load_file

from largegen import generate, load_model
from largegen.cli import run
from largegen.errors import InputError, ModelError
from largegen.models.autoencoder import load_autoencoder
from largegen.models.conditioners import PatchConditioner
from largegen.models.convert.convert import convert
from largegen.models.convert.published import read_published
from largegen.models.encoder import encoder_spec
from largegen.models.model import Model
from largegen.models.start_from import start_from


def close(found, expected):
    assert (found - expected).norm() / expected.norm() < 1e-5


def test_ldm_weights_are_a_start_for_training(reference_weights, encoders, tmp_path, capsys):
    """Its class embedder is left out, and there is nothing yet to sample with."""
    weights, config = reference_weights
    theirs = {n: v for n, v in weights.items() if not n.startswith("cond_stage_model.")}
    theirs |= {"cond_stage_model.embedding.weight": torch.zeros(5, 512), "first_stage_model.loss.a": torch.zeros(2)}
    config = copy.deepcopy(config)
    config["model"]["params"]["cond_stage_config"] = {"target": "ldm.modules.encoders.modules.ClassEmbedder"}
    base = tmp_path / "base"
    assert run(["convert", str(save_checkpoint(tmp_path / "cin256", theirs, config)), "--out", str(base)]) == 0
    printed = capsys.readouterr().out
    assert "LDM's class embedder" in printed and "loss and discriminator" in printed
    assert f"--vae {base} --init-from {base}" in printed
    with pytest.raises(ModelError, match="has no conditioner: a start"):
        load_model(base)
    published, _ = read_published(tmp_path / "cin256")
    conditioner = PatchConditioner(48, 512)
    model = Model(
        load_autoencoder(base),
        UNet2DConditionModel.from_config(published.unet.config),
        conditioner,
        published.scheduler,
        {},
    )
    start_from(model, base)
    pairs = zip(model.unet.state_dict().values(), published.unet.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert run(["convert", str(tmp_path / "cin256"), "--out", str(tmp_path / "b"), "--encoder", encoders[0]]) == 2


@pytest.mark.parametrize("as_vae", [False, True])
def test_an_autoencoder_by_itself(reference_weights, shared, encoders, tmp_path, as_vae):
    """vq-f4 is published alone; a denoiser without one takes it."""
    weights, config = reference_weights
    stem = "first_stage_model."
    alone = {n.removeprefix(stem): v for n, v in weights.items() if n.startswith(stem)} | {"loss.a": torch.zeros(2)}
    form = {"model": {"params": config["model"]["params"]["first_stage_config"]["params"]}}
    vq = save_checkpoint(tmp_path / "vq-f4", alone, form)
    out, expected = tmp_path / "out", load_file(shared / "reference" / "large-image-patch" / "expected.safetensors")
    if as_vae:
        without = {n: v for n, v in weights.items() if not n.startswith(stem)}
        source = save_checkpoint(tmp_path / "denoiser", without, config)
        with pytest.raises(InputError, match="no autoencoder; name one with `vae`"):
            convert(source, out, encoder=encoders[0])
        assert not out.exists()
        convert(source, out, vae=vq, encoder=encoders[0])
        assert load_model(out, "cpu", "fp32").tile_px == 256
    else:
        report = convert(vq, out)
        assert report.parts == ["vae"] and sum(map(len, report.left_out.values())) == 1
    with torch.no_grad():
        close(load_autoencoder(out).decode(expected["vae.latent"]), expected["vae.decoded"])


def test_what_does_not_belong_together(reference_weights, encoders, tmp_path, capsys):
    """One line, exit code 2, and nothing is left."""
    weights, config = reference_weights
    first = next(n for n in weights if n.startswith("model.diffusion_model.") and n.endswith("weight"))
    ema = {
        "model_ema." + n.removeprefix("model.").replace(".", ""): v
        for n, v in weights.items()
        if n.startswith("model.")
    }
    wider = copy.deepcopy(config)
    wider["model"]["params"]["unet_config"]["params"]["model_channels"] = 64
    other = copy.deepcopy(config)
    other["model"]["params"]["cond_stage_config"]["target"] = "os.system"
    cases = {
        "missing": ({n: v for n, v in weights.items() if n != first}, config, "denoiser|missing"),
        "surplus": (weights | {"model.diffusion_model.more": torch.zeros(1)}, config, "model.more|no place|not part"),
        "ema": (weights | dict(list(ema.items())[1:]), config, "EMA weight '.*' is missing; --raw-weights"),
        "shape": (weights, wider, "has shape"),
        "nan": (weights | {first: weights[first] * torch.nan}, config, "of its unet holds NaN or infinite values"),
        "integers": (weights | {first: weights[first].long()}, config, "holds torch.int64, not floats"),
        "schedule": (weights, with_params(config, linear_start="x"), "its noise schedule is not as its config says"),
        "heads": (weights, with_unet(config, num_heads=0), "its denoiser is not as its config says"),
        "size": (weights, with_unet(config, image_size="a"), "its denoiser is not as its config says"),
        "target": (weights, other, "conditioner system: not one of the published"),
        "architecture": ({"conv1.weight": torch.zeros(3)}, config, "neither a denoiser nor an autoencoder"),
        "no-config": (weights, None, "a conditioner, but no config"),
        "no-weights": ({}, config, "no weights"),
    }
    for name, (content, form, text) in cases.items():
        source = save_checkpoint(tmp_path / name, content, form)
        out = tmp_path / f"{name}-model"
        assert run(["convert", str(source), "--out", str(out), "--encoder", encoders[0]]) == 2, name
        error = capsys.readouterr().err.strip()
        assert re.search(text, error) and str(source) in error and len(error.splitlines()) == 1, (name, error)
        assert not out.exists() and not list(tmp_path.glob(f".{name}-model*")), name
    source = save_checkpoint(tmp_path / "yaml", weights)
    for text in ("model: [", "a: 1", "[" * 5000, "!!python/object/apply:os.system ['true']"):
        (source / "config.yaml").write_text(text)
        with pytest.raises(ModelError, match="not the config of a latent diffusion model"):
            read_published(source)


def test_only_a_model_directory_is_replaced(reference_weights, encoders, tmp_path, capsys):
    """--overwrite with a mistyped --out deletes nobody's files."""
    source = save_checkpoint(tmp_path / "run", *reference_weights)
    full, empty, model = (tmp_path / name for name in ("full", "empty", "model"))
    for folder in (full, empty):
        folder.mkdir()
    (full / "thesis.tex").write_text("years")

    def overwrite(source, out) -> tuple[int, str]:
        command = ["convert", str(source), "--out", str(out), "--encoder", encoders[0], "--overwrite"]
        return run(command), capsys.readouterr().err

    for out in (full, full / "thesis.tex"):
        code, error = overwrite(source, out)
        assert code == 1 and "is no model directory of largegen, so it is not replaced" in error
    code, error = overwrite(source, source)
    assert code == 2 and "is an input of this command" in error
    for out in (empty, model, model):
        assert overwrite(source, out)[0] == 0
    (model / "source").mkdir()
    inside = shutil.copytree(source, model / "source" / "run")
    code, error = overwrite(inside, model)
    assert code == 2 and f"{model}: holds {inside}, an input of this command" in error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "full", "model", "run"]
    assert (full / "thesis.tex").exists() and (inside / "model.ckpt").exists()


def test_an_encoder_is_known_by_its_registered_name(reference_weights, encoders, tmp_path, monkeypatch):
    """Embedding files say `uni_v1`, whatever a model's encoder was called on the command line."""
    source, spec = save_checkpoint(tmp_path / "run", *reference_weights), encoder_spec(encoders[0])
    monkeypatch.setattr(
        "largegen.models.convert.convert.encoder_spec", lambda name, dim: replace(spec, name="registered")
    )
    convert(source, tmp_path / "out", encoder="hf-hub:ORG/NAME")
    assert load_model(tmp_path / "out").info.encoder == "registered"


def test_which_checkpoint(reference_weights, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_published(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"holds no checkpoint \(\.ckpt, .* here or in checkpoints/\)"):
        read_published(tmp_path)
    folder = save_checkpoint(tmp_path / "run", *reference_weights)
    (folder / "model.ckpt").rename(folder / "epoch=1.ckpt")
    (folder / "last.ckpt").write_bytes(b"")
    with pytest.raises(InputError, match=r"2 checkpoints \(epoch=1.ckpt, last.ckpt\); name one with `checkpoint`"):
        read_published(folder)
    with pytest.raises(InputError, match="holds no checkpoint best"):
        read_published(folder, "best")
    assert read_published(folder, "epoch=1")[1].source.name == "epoch=1.ckpt"
    assert read_published(folder / "epoch=1.ckpt")[1].used


def test_offline_the_hub_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    out = str(tmp_path / "out")
    assert run(["convert", "hf:StonyBrook-CVLab/ZoomLDM/brca", "--out", out]) == 1
    error = capsys.readouterr().err
    assert "https://huggingface.co/StonyBrook-CVLab/ZoomLDM" in error and len(error.strip().splitlines()) == 1
    for source in ("hf:", "hf:one", "hf:a/b/../c"):
        assert run(["convert", source, "--out", out]) == 2


def test_from_the_hub_at_a_revision(shared, encoders, tmp_path, monkeypatch):
    """What a download leaves in the cache is found again, and the model says which revision it is of."""
    revision, store = "0123456789" * 4, tmp_path / "models--org--name"
    shutil.copytree(shared / "reference" / "zoomldm", store / "snapshots" / revision / "brca")
    (store / "refs").mkdir()
    (store / "refs" / "main").write_text(revision)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for source in ("hf:org/name/brca", f"hf:org/name@{revision}/brca"):
        convert(source, tmp_path / "out", encoder=encoders[0], overwrite=True)
        assert load_model(tmp_path / "out").info.converted_from == f"hf:org/name@{revision}/brca"
    options = ["--vae", "hf:org/name/brca", "--encoder", encoders[0], "--overwrite", "--out", str(tmp_path / "out")]
    assert run(["convert", str(shared / "reference" / "large-image-patch"), *options]) == 0
    wanted = read_published(shared / "reference" / "zoomldm")[0].vae.state_dict()
    found = load_autoencoder(tmp_path / "out").vae.state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("name", FOLDERS)
def test_convert_makes_a_model_that_samples(shared, encoders, tmp_path, capsys, name):
    command = ["convert", str(shared / "reference" / name), "--out", str(tmp_path / "model"), "--json"]
    assert run(command) == 2 and "--encoder" in capsys.readouterr().err
    assert run([*command, "--encoder", encoders[1]]) == 2 and "gives 96-dimensional" in capsys.readouterr().err
    assert run([*command, "--encoder", encoders[0], "--name", "mine", "--mag", "5"]) == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert printed.err == ""
    assert report["used"] > 500 and "tables that follow from the noise schedule" in report["left_out"]
    assert run([*command, "--encoder", encoders[0], "--name", "other", "--mag", "5"]) == 1  # is not what is there
    model = load_model(tmp_path / "model", "cpu", "fp32")
    assert (model.info.name, model.factor, model.tile_px, model.level_names[0]) == ("mine", 4, 256, "5x")
    grid = torch.randn(1, 1, 48, generator=torch.Generator().manual_seed(0))
    image = generate(model, grid, steps=2, seed=1)
    assert image.shape == (256, 256, 3) and image.std() > 1
