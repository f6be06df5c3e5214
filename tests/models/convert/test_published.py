"""The published checkpoint formats: read safely, converted to the last weight, with the authors' numbers."""

import copy
import pickle

import numpy as np
import pytest
import torch
from helpers.checkpoints import FOLDERS
from helpers.training import config, forget_accelerate, losses
from safetensors.torch import load_file

from largegen import generate, load_model
from largegen.errors import InputError, ModelError
from largegen.models.convert.convert import convert
from largegen.models.convert.published import read_published
from largegen.models.safe_load import read_checkpoint, weights_of
from largegen.models.student import StudentInfo
from largegen.runtime.fingerprints import network_checksum
from largegen.sampling.denoise import guided
from largegen.training.config import DistillationConfig
from largegen.training.consistency import TeacherPath
from largegen.training.run import train
from largegen.training.tasks.distillation import DistillationTask


@pytest.fixture(scope="module", params=FOLDERS)
def published(request, shared, encoders, tmp_path_factory):
    folder, out = shared / "reference" / request.param, tmp_path_factory.mktemp("published") / "model"
    region = encoders[1] if request.param == "large-image-region" else None
    report = convert(folder, out, encoder=encoders[0], region_encoder=region)
    return request.param, load_model(out, "cpu", "fp32"), report, load_file(folder / "expected.safetensors")


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
    assert report.used == filled and report.parts == ["vae", "unet", "conditioner"]


def test_raw_weights_are_others(shared):
    folder = shared / "reference" / "zoomldm"
    averaged, raw = (read_published(folder, raw_weights=raw)[0].unet.state_dict() for raw in (False, True))
    assert any(not torch.equal(averaged[name], raw[name]) for name in raw)


@pytest.mark.parametrize("binary", [False, True])
def test_a_directory_in_diffusers_layout(published, tmp_path, binary):
    _, model, _, _ = published
    model.unet.save_pretrained(tmp_path / "theirs" / "unet", safe_serialization=not binary)
    model.autoencoder.vae.save_pretrained(tmp_path / "theirs" / "vqvae", safe_serialization=not binary)
    report = convert(tmp_path / "theirs", tmp_path / "ours")
    assert report.parts == ["vae", "unet"]
    parts, _ = read_published(tmp_path / "theirs")
    pairs = zip(parts.unet.state_dict().values(), model.unet.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    with pytest.raises(InputError, match="model directory of largegen already"):
        convert(tmp_path / "ours", tmp_path / "again")
    broken = copy.deepcopy(model.autoencoder.vae)
    broken.state_dict()["decoder.conv_in.bias"].fill_(torch.inf)
    broken.save_pretrained(tmp_path / "broken" / "vqvae", safe_serialization=not binary)
    with pytest.raises(ModelError, match=r"'decoder\.conv_in\.bias' of its vae holds NaN or infinite"):
        convert(tmp_path / "broken", tmp_path / "again")


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
    [
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\xef\xbb\xbf\n<html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a pointer of Git LFS.*`git lfs pull`"),
        (b"config.yaml".ljust(257, b"\0") + b"ustar  \0".ljust(999, b"\0"), "a tar archive.*unpack it"),
        (b"", "empty"),
        (b"PK\3\4 and then", "damaged"),
        (b"abc", "damaged"),
    ],
)
def test_what_is_no_checkpoint(tmp_path, content, text):
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(ModelError, match=text) as caught:
        read_checkpoint(tmp_path / "a.ckpt")
    assert len(str(caught.value)) < 200 + len(str(tmp_path))  # none of torch's advice
    with pytest.raises(ModelError, match="not a file"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("value", [torch.eye(3).to_sparse(), torch.ones(3, device="meta")])
def test_weights_are_plain_arrays(tmp_path, value):
    with pytest.raises(ModelError, match="weight 'a' is no plain array"):
        weights_of({"a": value}, tmp_path)


def test_large_image_is_reproduced_by_the_converted_model(shared, encoders, tmp_path):
    folder = shared / "reference" / "large-image-patch"
    convert(folder, tmp_path / "model", encoder=encoders[0])
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


class Random:
    """Random latents and embeddings, as samples to distil from."""

    training, validation, seed = [np.zeros((4, 2), int)], [np.zeros((0, 2), int)], 0

    def __init__(self, model):
        self.shape = model.autoencoder.channels, model.window, model.window
        self.arrange, self.width = model.conditioner.arrange, model.info.embedding_dim + model.region_dim

    def __getitem__(self, sample):
        normal = torch.Generator().manual_seed(sample)
        condition = self.arrange(torch.randn(1, 1, 1, self.width, generator=normal), 0)
        latents, noise = torch.randn(2, *self.shape, generator=normal)
        when = {"timestep": torch.tensor(170 * sample), "fraction": torch.tensor(sample / 8)}
        return {"latents": latents, "noise": noise, **when, **{f"condition.{i}": c[0] for i, c in enumerate(condition)}}


def test_it_can_be_distilled(published, tmp_path):
    _, model, _, _ = published
    model = load_model(model.directory, "cpu", "fp32")
    path, settings = TeacherPath(model.scheduler, ends=(0, 10)), DistillationConfig(rank=2)
    told = {
        "scheduler": "ddim",
        "steps": 2,
        "timesteps": path.timesteps,
        "teacher_checksum": network_checksum(model.unet),
    }
    info = StudentInfo(guidance=(1.0, 4.0), rank=2, teacher="published", **told)
    task = DistillationTask(Random(model), model, settings, info, path)
    try:
        train(task, tmp_path / "run", config(steps=2, batch_size=2, validate_every=0))
    finally:
        forget_accelerate()
    assert len(losses(tmp_path / "run")) == 2
    student = load_model(tmp_path / "run", "cpu", "fp32")
    calls = []
    student.student.unet.register_forward_hook(lambda *given: calls.append(len(given[2].sample)))
    noisy, context = torch.randn(2, *task.dataset.shape), student.context(torch.randn(2, task.dataset.width))
    eps = guided(student.student, None, 2.0)(noisy, torch.tensor(999), context)
    teachers = guided(student.eps, student.null_context(), 2.0)(noisy, torch.tensor(999), context)
    assert calls == [2] and student.student_info.timesteps == (999, 199)
    assert 0 < (eps - teachers).norm() < teachers.norm()
