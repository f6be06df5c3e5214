"""The published model at its full size, 3.6 GB of random weights: converted in bounded memory, and it runs."""

import json
import os
import subprocess
import sys

import pytest
import torch
import yaml
from helpers import ldm_form

from largegen import load_model
from largegen.models.convert.ldm import CIN256, VQ_F4
from largegen.models.safe_load import read_checkpoint

SUMMARIZER = {
    "num_layers": 12,
    "input_channels": 1024,
    "hidden_channels": 512,
    "output_channels": 512,
    "vit_mlp_dim": 2048,
    "mag_levels": 8,
}


def shapes_of(config):
    """Name -> shape of a ZoomLDM checkpoint of a config's `model.params`."""
    params = {name: section["params"] for name, section in config.items() if isinstance(section, dict)}
    denoiser = dict(ldm_form.denoiser(**params["unet_config"]))
    return {
        **denoiser,
        **ldm_form.averaged(denoiser),
        **dict(ldm_form.autoencoder(**params["first_stage_config"])),
        **dict(ldm_form.summarizer(**params["cond_stage_config"])),
    }


def test_the_form_is_the_published_one(shared):
    """The names and shapes that the large test makes are those of the reference, at its size."""
    folder = shared / "reference" / "zoomldm"
    config = yaml.safe_load((folder / "config.yaml").read_text())["model"]["params"]
    theirs = {
        name: tuple(value.shape)
        for name, value in read_checkpoint(folder / "weights.ckpt").items()
        if name.split(".")[0] in ("model", "model_ema", "first_stage_model", "cond_stage_model")
        and name not in ("model_ema.decay", "model_ema.num_updates")
    }
    assert shapes_of(config) == theirs


@pytest.mark.slow
def test_the_published_size(tmp_path):
    config = {
        **CIN256,
        "first_stage_config": {"params": VQ_F4},
        "cond_stage_config": {"target": "a.EmbeddingViT2_5", "params": SUMMARIZER},
    }
    generator = torch.Generator().manual_seed(0)
    weights = {name: 0.02 * torch.randn(shape, generator=generator) for name, shape in shapes_of(config).items()}
    count = sum(value.numel() for name, value in weights.items() if name.startswith("model.diffusion_model."))
    assert 400e6 < count < 402e6
    source = tmp_path / "brca"
    source.mkdir()
    (source / "config.yaml").write_text(yaml.safe_dump({"model": {"params": config}}))
    torch.save(weights, source / "weights.ckpt")
    kept = weights["model_ema.diffusion_modelout2weight"]
    del weights
    command = ["convert", str(source), "--out", str(tmp_path / "model"), "--json"]
    process = subprocess.Popen([sys.executable, "-m", "largegen", *command], stdout=subprocess.PIPE, text=True)
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0 and json.loads(printed)["ema"]
    peak = usage.ru_maxrss * 1024  # KiB on Linux
    size = (source / "weights.ckpt").stat().st_size
    print(f"{size / 1e9:.2f} GB converted with {peak / 1e9:.2f} GB of memory, {usage.ru_utime + usage.ru_stime:.0f} s")
    assert size > 3.5e9 and peak < 1.5 * size
    model = load_model(tmp_path / "model", "cpu", "fp32")
    assert torch.equal(model.unet.state_dict()["conv_out.weight"], kept)
    assert (model.levels, model.tile_px, model.info.encoder, model.level_names[4]) == (8, 256, "uni_v1", "1.25x")
    noise = torch.randn(1, 3, 64, 64, generator=generator)
    eps = model.eps(noise, 500, model.context(torch.randn(1, 4, 4, 1024, generator=generator), 2))
    assert eps.shape == noise.shape and eps.isfinite().all()
