"""The published checkpoint formats: read safely, converted to the last weight, with the authors' numbers."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file
from tiny import save_encoder

from largegen import generate, load_model
from largegen.cli import run
from largegen.errors import InputError, ModelError
from largegen.foreign import read_checkpoint, weights_of
from largegen.published import convert, find_source, read_published

FOLDERS = ("zoomldm", "large-image-patch", "large-image-region")


@pytest.fixture(scope="module", params=FOLDERS)
def published(request, shared):
    folder = shared / "reference" / request.param
    model, report = read_published(find_source(folder), {"name": request.param})
    return request.param, model, report, load_file(folder / "expected.safetensors")


def close(found, expected):
    assert (found - expected).norm() / expected.norm() < 1e-5


@torch.no_grad()
def test_the_denoiser_gives_the_authors_numbers(published):
    _, model, report, expected = published
    eps = model.unet(expected["unet.sample"], expected["unet.timestep"], expected["unet.context"]).sample
    close(eps, expected["unet.eps"])
    assert report.ema == (published[0] == "zoomldm")


@torch.no_grad()
def test_the_autoencoder_gives_the_authors_numbers(published):
    _, model, _, expected = published
    close(model.autoencoder.encode(expected["vae.image"]), expected["vae.latent"])
    close(model.autoencoder.decode(expected["vae.latent"]), expected["vae.decoded"])


@torch.no_grad()
def test_the_conditioner_gives_the_authors_numbers(published):
    name, model, _, expected = published
    if name == "zoomldm":
        assert model.levels == 8
        grid = expected["cond.grid_4_mag_3"].permute(1, 2, 0)
        slots, filled, levels = model.conditioner.arrange(grid[None], 3)
        slots[filled] = grid.flatten(0, 1)  # the reference's grids went in as they are
        close(model.conditioner(slots, filled, levels), expected["cond.context_4_mag_3"])
    elif name == "large-image-patch":
        close(model.context(expected["cond.features"]), expected["cond.context"])
        close(model.null_context(), expected["cond.uncond"][:1])
    else:
        both = torch.cat([expected["cond.patch"], expected["cond.region"]], 1)
        close(model.context(both), expected["cond.context"])
        alone = model.context(expected["cond.patch"])
        close(alone[:, 0], expected["cond.context"][:, 0])
        close(alone[:, 1:], model.null_context()[:, 1:].expand(len(alone), -1, -1))


def test_the_schedule_is_the_authors(published):
    _, model, _, expected = published
    close(model.scheduler.alphas_cumprod, expected["schedule.alphas_cumprod"])


def test_every_tensor_is_used_or_named(published, shared):
    _, model, report, _ = published
    weights = weights_of(read_checkpoint(report.source), report.source)
    assert report.used + sum(map(len, report.left_out.values())) == len(weights)
    filled = sum(len(part.state_dict()) for part in (model.unet, model.autoencoder.vae, model.conditioner))
    assert report.used == filled


def test_raw_weights_are_others(shared):
    source = find_source(shared / "reference" / "zoomldm")
    averaged, raw = (read_published(source, {}, raw_weights=raw)[0].unet.state_dict() for raw in (False, True))
    assert any(not torch.equal(averaged[name], raw[name]) for name in raw)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_malicious_checkpoint_is_read_and_not_run(tmp_path):
    content = {"state_dict": {"a": torch.ones(3)}, "callbacks": Evil(tmp_path / "evil")}
    torch.save(content, tmp_path / "evil.ckpt")
    assert weights_of(read_checkpoint(tmp_path / "evil.ckpt"), tmp_path)["a"].tolist() == [1, 1, 1]
    (tmp_path / "old.ckpt").write_bytes(pickle.dumps(content | {"state_dict": {}}))
    with pytest.raises(ModelError):
        weights_of(read_checkpoint(tmp_path / "old.ckpt"), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.ckpt", "old.ckpt"]


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"<!DOCTYPE html><html>", "a web page"), (b"", "empty"), (b"PK\3\4 and then", "damaged"), (b"abc", "damaged")],
)
def test_what_is_no_checkpoint(tmp_path, content, text):
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(ModelError, match=text):
        read_checkpoint(tmp_path / "a.ckpt")


def test_a_folder_without_a_config(tmp_path):
    (tmp_path / "a.ckpt").write_bytes(b"")
    with pytest.raises(InputError, match="no config"):
        find_source(tmp_path)


@pytest.mark.parametrize("name", FOLDERS)
def test_convert_makes_a_model_that_samples(shared, tmp_path, capsys, name):
    encoder = save_encoder(tmp_path / "encoder", width=48)
    command = ["convert", str(shared / "reference" / name), "--out", str(tmp_path / "model"), "--json"]
    assert run(command) == 2 and "--encoder" in capsys.readouterr().err
    assert run([*command, "--encoder", f"local-dir:{encoder}", "--name", "mine"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["used"] > 500 and "tables that follow from the noise schedule" in report["left_out"]
    assert run(command) == 1
    model = load_model(tmp_path / "model", "cpu", "fp32")
    assert (model.info["name"], model.factor, model.tile_px) == ("mine", 4, 256)
    grid = torch.randn(1, 1, 48, generator=torch.Generator().manual_seed(0))
    picture = generate(model, grid, steps=2, seed=1)
    assert picture.shape == (256, 256, 3) and picture.std() > 1


def test_large_image_is_reproduced_by_the_converted_model(shared, tmp_path):
    folder = shared / "reference" / "large-image-patch"
    encoder = save_encoder(tmp_path / "encoder", width=48)
    convert(folder, tmp_path / "model", encoder=f"local-dir:{encoder}")
    model, expected = load_model(tmp_path / "model", "cpu", "fp32"), load_file(folder / "large_image.safetensors")
    latents = generate(
        model,
        expected["embeddings"],
        steps=10,
        guidance=4.0,
        windows="overlap",
        stride=32,
        latents=expected["initial_latents"],
        output="latent",
    )
    assert (latents - expected["final_latents"]).norm() / expected["final_latents"].norm() < 1e-4
