"""Interpolation on the embedding grid, and the patch conditioner."""

import math
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler
from torch.utils._python_dispatch import TorchDispatchMode

from largegen.conditioning.interpolation import interpolate_grid, slerp
from largegen.models.conditioners import CONDITIONERS, PatchConditioner
from largegen.models.info import ModelInfo
from largegen.sampling.generate import sample_latents
from largegen.sampling.settings import Sampling


def test_slerp_goes_round_the_circle_at_constant_speed():
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    for t in (0.0, 0.25, 0.5, 1.0):
        expected = torch.tensor([[math.cos(t * math.pi / 2), math.sin(t * math.pi / 2)]])
        torch.testing.assert_close(slerp(a, b, torch.tensor([t])), expected)


def test_slerp_of_nearly_parallel_vectors_is_linear():
    a, b = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[3.0, 0.0], [-3.0, 0.0]])
    torch.testing.assert_close(slerp(a, b, torch.full((2,), 0.25)), torch.tensor([[1.5, 0.0], [0.0, 0.0]]))


def test_slerp_treats_each_row_by_itself():
    torch.manual_seed(0)
    a, b, t = torch.randn(5, 8), torch.randn(5, 8), torch.rand(5)
    b[2] = a[2] * 1.5  # linear in the midst of arcs
    rows = [slerp(a[i : i + 1], b[i : i + 1], t[i : i + 1]) for i in range(5)]
    torch.testing.assert_close(slerp(a, b, t), torch.cat(rows))


def test_grid_points_give_their_own_embeddings():
    features = torch.randn(2, 3, 8)
    y, x = torch.meshgrid(torch.arange(2), torch.arange(3), indexing="ij")
    torch.testing.assert_close(interpolate_grid(features, y.flatten(), x.flatten()), features.flatten(0, 1))


def test_grid_interpolates_along_the_row_first():
    features = torch.randn(2, 2, 8)
    t = torch.tensor([0.3])
    upper = slerp(features[0, :1], features[0, 1:], t)
    lower = slerp(features[1, :1], features[1, 1:], t)
    found = interpolate_grid(features, torch.tensor([0.6]), t)
    torch.testing.assert_close(found, slerp(upper, lower, torch.tensor([0.6])))


def test_grid_goes_on_past_its_edges_by_repetition():
    features = torch.randn(2, 3, 8)
    found = interpolate_grid(features, torch.tensor([1.75, -0.5]), torch.tensor([2.5, -1.0]))
    torch.testing.assert_close(found, torch.stack([features[1, 2], features[0, 0]]))


class NoDoubles(TorchDispatchMode):
    """Refuses float64 on any device but the CPU, as Apple's GPUs do."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **kwargs or {})
        tensors = [value for value in (*args, found) if isinstance(value, torch.Tensor)]
        assert not any(value.device.type != "cpu" and value.dtype == torch.float64 for value in tensors)
        return found


def test_a_device_without_float64_sees_none(monkeypatch):
    monkeypatch.setattr("largegen.sampling.generate.sample_canvas", lambda eps, condition_at, *_, **__: condition_at)
    scheduler = DDPMScheduler()
    names = {
        "eps": None,
        "info": ModelInfo("m", embedding_dim=16),
        "window": 8,
        "factor": 8,
        "scheduler": scheduler,
        "autoencoder": SimpleNamespace(channels=4),
    }
    meta = torch.device("meta")  # shapes only
    model = SimpleNamespace(device=meta, context=lambda found: found, null_context=lambda: None, **names)
    condition_at = sample_latents(model, torch.randn(2, 3, 16), 128, 192, Sampling(distilled=False))
    with NoDoubles():
        found = condition_at([(0, 0), (3, 5)])
    assert found.shape == (2, 16) and found.device == meta


def test_patch_conditioner_sees_directions_only():
    conditioner = PatchConditioner(8, 16)
    embeddings = torch.randn(4, 8)
    tokens = conditioner(embeddings)
    assert tokens.shape == (4, 1, 16)
    torch.testing.assert_close(conditioner(embeddings * 7), tokens)


def test_null_condition_is_the_projection_of_zero():
    conditioner = PatchConditioner(8, 16)
    null = conditioner.null(3)
    assert null.shape == (3, 1, 16)
    assert torch.equal(null, conditioner.projection.bias.expand(3, 1, 16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_patch_conditioner_answers_in_its_own_dtype(dtype):
    assert PatchConditioner(8, 16).to(dtype)(torch.randn(2, 8)).dtype == dtype


def test_patch_conditioner_survives_saving(tmp_path):
    conditioner = PatchConditioner(8, 16)
    conditioner.save_pretrained(tmp_path)
    assert [file.suffix for file in tmp_path.iterdir() if file.suffix != ".json"] == [".safetensors"]
    loaded = CONDITIONERS["PatchConditioner"].from_pretrained(tmp_path)
    embeddings = torch.randn(2, 8)
    assert torch.equal(loaded(embeddings), conditioner(embeddings))
