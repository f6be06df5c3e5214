"""Encoders that no hub holds: files with the published names, and their networks as the authors run them.

The networks are written out here as functions of the published weights, so that a wrong name, order or constant in
what timm builds is seen.
"""

import argparse

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from largegen.errors import ModelError
from largegen.models.encoder import encoder_spec, load_encoder

SWIN_STAGES = ((96, 2, 3), (192, 2, 6), (384, 6, 12), (768, 2, 24))  # channels, blocks, heads
WINDOW = 7


class Weights(dict):
    """Random weights by their published names, and the layers that they are of."""

    def add_layer(self, name: str, *shape: int, bias: bool = True) -> None:
        self[f"{name}.weight"] = torch.randn(shape) / np.prod(shape[1:]) ** 0.5
        if bias:
            self[f"{name}.bias"] = torch.randn(shape[0]) * 0.1

    def add_norm(self, name: str, width: int) -> None:
        self[f"{name}.weight"], self[f"{name}.bias"] = 1 + torch.randn(width) * 0.3, torch.randn(width) * 0.3

    def add_block(self, name: str, width: int) -> None:
        self.add_norm(f"{name}.norm1", width)
        self.add_layer(f"{name}.attn.qkv", 3 * width, width)
        self.add_layer(f"{name}.attn.proj", width, width)
        self.add_norm(f"{name}.norm2", width)
        self.add_layer(f"{name}.mlp.fc1", 4 * width, width)
        self.add_layer(f"{name}.mlp.fc2", width, 4 * width)

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self[f"{name}.weight"], self.get(f"{name}.bias"))

    def norm(self, name: str, x: torch.Tensor, eps: float) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], self[f"{name}.weight"], self[f"{name}.bias"], eps)

    def attention(self, name: str, x: torch.Tensor, heads: int, bias: torch.Tensor | float = 0.0) -> torch.Tensor:
        """(B, N, C) => (B, N, C)"""
        q, k, v = self.linear(f"{name}.qkv", x).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        attention = (q @ k.mT / q.shape[-1] ** 0.5 + bias).softmax(-1)
        return self.linear(f"{name}.proj", (attention @ v).transpose(1, 2).flatten(2))

    def mlp(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return self.linear(f"{name}.fc2", F.gelu(self.linear(f"{name}.fc1", x)))


def hipt_weights() -> Weights:
    """DINO's ViT-S/16, pretrained at 224 px: 14 x 14 positions."""
    torch.manual_seed(0)
    weights = Weights(cls_token=torch.randn(1, 1, 384), pos_embed=torch.randn(1, 197, 384))
    weights.add_layer("patch_embed.proj", 384, 3, 16, 16)
    for index in range(12):
        weights.add_block(f"blocks.{index}", 384)
    weights.add_norm("norm", 384)
    return weights


def hipt(w: Weights, x: torch.Tensor) -> torch.Tensor:
    """(B, 3, 256, 256) in [-1, 1] => (B, 384), as HIPT's vision_transformer.py has it."""
    x = F.conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=16).flatten(2).mT
    grid = w["pos_embed"][:, 1:].reshape(1, 14, 14, 384).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, scale_factor=(16.1 / 14, 16.1 / 14), mode="bicubic").permute(0, 2, 3, 1)
    first = (w["cls_token"] + w["pos_embed"][:, :1]).expand(len(x), -1, -1)
    x = torch.cat([first, x + grid.reshape(1, 256, 384)], 1)
    for name in [f"blocks.{index}" for index in range(12)]:
        x = x + w.attention(f"{name}.attn", w.norm(f"{name}.norm1", x, 1e-6), 6)
        x = x + w.mlp(f"{name}.mlp", w.norm(f"{name}.norm2", x, 1e-6))
    return w.norm("norm", x, 1e-6)[:, 0]


def as_dino_saves(weights: Weights, teacher: str) -> dict:
    """A training's checkpoint: two networks with their projection heads, and what else the training knew."""
    head = {"head.mlp.0.weight": torch.zeros(8, 384), "head.last_layer.weight_g": torch.zeros(9, 1)}
    wrapped = {f"backbone.{name}": value for name, value in weights.items()} | head
    return {
        "student": {f"module.{name}": torch.zeros_like(value) for name, value in head.items()},
        "teacher": {f"{teacher}{name}": value for name, value in wrapped.items()},
        "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", patch_size=16),
        "dino_loss": {"center": torch.zeros(1, 9)},
    }


def ctranspath_weights() -> Weights:
    """timm 0.5.4's Swin-T with a convolutional stem."""
    torch.manual_seed(0)
    weights = Weights()
    for index, (before, after) in enumerate([(3, 12), (12, 24)]):
        weights.add_layer(f"patch_embed.proj.{3 * index}", after, before, 3, 3, bias=False)
        norm = f"patch_embed.proj.{3 * index + 1}"
        weights.add_norm(norm, after)
        weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"] = torch.randn(after), torch.rand(after) + 0.5
        weights[f"{norm}.num_batches_tracked"] = torch.tensor(7)
    weights.add_layer("patch_embed.proj.6", 96, 24, 1, 1)
    weights.add_norm("patch_embed.norm", 96)
    y, x = (c.flatten() for c in torch.meshgrid(torch.arange(WINDOW), torch.arange(WINDOW), indexing="ij"))
    table = (y[:, None] - y + WINDOW - 1) * (2 * WINDOW - 1) + x[:, None] - x + WINDOW - 1
    for stage, (width, depth, heads) in enumerate(SWIN_STAGES):
        side = 56 >> stage
        for index in range(depth):
            name = f"layers.{stage}.blocks.{index}"
            weights.add_block(name, width)
            weights[f"{name}.attn.relative_position_bias_table"] = torch.randn((2 * WINDOW - 1) ** 2, heads)
            weights[f"{name}.attn.relative_position_index"] = table
            if index % 2 and side > WINDOW:
                weights[f"{name}.attn_mask"] = shifted_mask(side)
        if stage < 3:
            weights.add_norm(f"layers.{stage}.downsample.norm", 4 * width)
            weights.add_layer(f"layers.{stage}.downsample.reduction", 2 * width, 4 * width, bias=False)
    weights.add_norm("norm", 768)
    return weights


def shifted_mask(side: int) -> torch.Tensor:
    """Which places of a shifted window do not belong together, being of opposite edges: (windows, 49, 49)."""
    place = torch.arange(side)
    part = (place >= side - WINDOW).long() + (place >= side - WINDOW // 2)
    parts = windows_of((3 * part[:, None] + part)[None, :, :, None]).squeeze(-1)
    return torch.where(parts[:, None, :] == parts[:, :, None], 0.0, -100.0)


def windows_of(x: torch.Tensor) -> torch.Tensor:
    """(B, H, W, C) => (B * windows, 49, C)"""
    x = x.unflatten(2, (-1, WINDOW)).unflatten(1, (-1, WINDOW))
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, WINDOW**2, x.shape[-1])


def ctranspath(w: Weights, x: torch.Tensor) -> torch.Tensor:
    """(B, 3, 224, 224) normalised => (B, 768), by the patch merging and shifted windows of Liu et al. 2021."""
    for conv, norm in (("0", "1"), ("3", "4")):
        x = F.conv2d(x, w[f"patch_embed.proj.{conv}.weight"], stride=2, padding=1)
        kinds = ("running_mean", "running_var", "weight", "bias")
        x = F.batch_norm(x, *(w[f"patch_embed.proj.{norm}.{kind}"] for kind in kinds)).relu()
    x = F.conv2d(x, w["patch_embed.proj.6.weight"], w["patch_embed.proj.6.bias"]).permute(0, 2, 3, 1)
    x = w.norm("patch_embed.norm", x, 1e-5)
    for stage, (_, depth, heads) in enumerate(SWIN_STAGES):
        for index in range(depth):
            name = f"layers.{stage}.blocks.{index}"
            x = x + swin_attention(w, name, w.norm(f"{name}.norm1", x, 1e-5), heads)
            x = x + w.mlp(f"{name}.mlp", w.norm(f"{name}.norm2", x, 1e-5))
        if stage < 3:
            name = f"layers.{stage}.downsample"
            x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
            x = w.linear(f"{name}.reduction", w.norm(f"{name}.norm", x, 1e-5))
    return w.norm("norm", x, 1e-5).mean((1, 2))


def swin_attention(w: Weights, name: str, x: torch.Tensor, heads: int) -> torch.Tensor:
    """(B, H, H, C) => (B, H, H, C)"""
    batch, side = x.shape[:2]
    mask = w.get(f"{name}.attn_mask")
    shift = 0 if mask is None else WINDOW // 2
    table = w[f"{name}.attn.relative_position_bias_table"]
    bias = table[w[f"{name}.attn.relative_position_index"]].permute(2, 0, 1)
    if shift:
        bias = bias + mask.repeat(batch, 1, 1)[:, None]
    x = w.attention(f"{name}.attn", windows_of(x.roll((-shift, -shift), (1, 2))), heads, bias)
    x = x.reshape(batch, side // WINDOW, side // WINDOW, WINDOW, WINDOW, -1).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, side, side, -1).roll((shift, shift), (1, 2))


def tiles(side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, side, side, 3), np.uint8)


def normalised(images: np.ndarray, mean: list[float], std: list[float]) -> torch.Tensor:
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    return (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def close(found: np.ndarray, expected: torch.Tensor) -> None:
    assert found.shape == tuple(expected.shape)
    assert np.linalg.norm(found - expected.numpy()) / expected.norm() < 1e-5


@pytest.mark.parametrize(("teacher", "zipped"), [("", True), ("module.", False)])
def test_hipt_gives_the_numbers_of_its_authors_network(tmp_path, teacher, zipped):
    weights, path = hipt_weights(), tmp_path / "vit256_small_dino.pth"
    torch.save(as_dino_saves(weights, teacher), path, _use_new_zipfile_serialization=zipped)
    encoder = load_encoder("hipt_vit256", path, "cpu")
    close(encoder.encode(tiles(256)), hipt(weights, normalised(tiles(256), [0.5] * 3, [0.5] * 3)))
    assert (encoder.dim, encoder.spec.input_px) == (384, 256)


def test_ctranspath_gives_the_numbers_of_its_authors_network(tmp_path):
    weights, path = ctranspath_weights(), tmp_path / "ctranspath.pth"
    torch.save({"model": dict(weights)}, path)
    encoder = load_encoder("ctranspath", path, "cpu")
    x = normalised(tiles(224), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    close(encoder.encode(tiles(224)), ctranspath(weights, x))
    assert (encoder.dim, encoder.spec.input_px) == (768, 224)


@pytest.mark.parametrize(
    ("name", "weights", "lost", "reported"),
    [
        ("hipt_vit256", hipt_weights, "pos_embed", "pos_embed"),
        ("ctranspath", ctranspath_weights, "patch_embed.proj.4.running_var", "patch_embed.proj.4.running_var"),
        ("ctranspath", ctranspath_weights, "layers.2.downsample.norm.bias", "layers.3.downsample.norm.bias"),
    ],
)
def test_a_file_that_lacks_a_weight_is_refused(tmp_path, name, weights, lost, reported):
    content = dict(weights())
    del content[lost]
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=f"'{reported}' is missing"):
        load_encoder(name, tmp_path / "w.pth", "cpu")


@pytest.mark.parametrize("name", ["hipt_vit256", "ctranspath"])
def test_without_a_file_the_error_says_where_it_is(name):
    spec = encoder_spec(name)
    with pytest.raises(ModelError, match=f"download {spec.source[5:]} from {spec.page} .*`encoder_weights`") as caught:
        load_encoder(name, device="cpu")
    assert "\n" not in str(caught.value)
