"""Weight files of encoders in every published form, and errors of one line."""

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from largegen.errors import ModelError
from largegen.models.encoder import load_encoder
from largegen.models.safe_load import read_checkpoint
from largegen.models.timm_weights import load_weights


def tiles(count: int, side: int = 128) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def test_weights_from_a_pth_file(tmp_path):
    net = timm.create_model("test_vit", num_classes=1000)
    torch.save({"state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, tmp_path / "w.pth")
    encoder = load_encoder("test_vit", tmp_path / "w.pth", "cpu")
    assert torch.equal(encoder.net.cls_token, net.cls_token)


class Evil:
    """An object whose pickle writes a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_weight_file_is_not_run(tmp_path, zipped):
    net = timm.create_model("test_vit", num_classes=0)
    content = {"teacher": net.state_dict(), "args": Evil(tmp_path / "evil")}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    encoder = load_encoder("test_vit", tmp_path / "w.pth", "cpu")
    assert torch.equal(encoder.net.cls_token, net.cls_token)
    torch.save({"model": Evil(tmp_path / "evil")}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match=r"w\.pth: holds no weights") as caught:
        load_encoder("test_vit", tmp_path / "w.pth", "cpu")
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["w.pth"]


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda w: {"model": {f"module.encoder.{k}": v for k, v in w.items()}},
        lambda w: {"student": {"x": torch.zeros(1)}, "teacher": {f"backbone.{k}": v for k, v in w.items()}},
        lambda w: {"state_dict": {f"backbone.{k}": v for k, v in w.items()} | {"head.mlp.0.weight": torch.zeros(1)}},
        lambda w: {"epoch": 3} | w,
    ],
)
def test_what_trainings_put_around_the_weights_is_left_out(tmp_path, wrapped):
    net = timm.create_model("test_vit", num_classes=0)
    torch.save(wrapped(net.state_dict()), tmp_path / "w.pth")
    assert torch.equal(load_encoder("test_vit", tmp_path / "w.pth", "cpu").net.cls_token, net.cls_token)


def test_a_name_that_is_there_with_and_without_a_prefix_is_refused(tmp_path):
    weights = timm.create_model("test_vit", num_classes=0).state_dict()
    weights["module.cls_token"] = weights["cls_token"] + 1
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="holds weights twice"):
        load_encoder("test_vit", tmp_path / "w.pth", "cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("norm.weight"), "'norm.weight' is missing"),
        (lambda w: w.update(surplus=torch.zeros(1)), "'surplus' is not part"),
        (lambda w: w.update({"norm.weight": torch.zeros(3)}), r"'norm.weight' has shape \(3,\), not \(64,\)"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path, change, message):
    weights = timm.create_model("test_vit", num_classes=0).state_dict()
    change(weights)
    safetensors.torch.save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=message):
        load_encoder("test_vit", tmp_path / "w.safetensors", "cpu")


@pytest.mark.parametrize("name", ["pos_embed", "encoder"])
def test_weights_that_a_network_cannot_have_are_one_line(tmp_path, name):
    torch.save({name: torch.zeros(3)}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="not the weights of this network") as caught:
        load_encoder("test_vit", tmp_path / "w.pth", "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        (b"", "empty"),
        (b"not weights", "damaged"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        ("truncated", "damaged"),
    ],
)
@pytest.mark.parametrize("name", ["w.safetensors", "w.bin"])
def test_an_unreadable_weight_file_is_one_line(tmp_path, name, content, words):
    if content == "truncated":
        write = safetensors.torch.save_file if name == "w.safetensors" else torch.save
        write({"a": torch.zeros(1000)}, tmp_path / name)
        content = (tmp_path / name).read_bytes()[:1500]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=f"{name}: .*{words}") as caught:
        load_encoder("test_vit", tmp_path / name, "cpu")
    assert "\n" not in str(caught.value)


def test_a_header_whose_length_reads_as_a_tag_is_no_web_page(tmp_path):
    """The first bytes of a safetensors file are its header's length: 0x3C20 is a blank and a `<`."""
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, path)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    padding = b" " * (0x3C20 - length)
    path.write_bytes((0x3C20).to_bytes(8, "little") + content[8 : 8 + length] + padding + content[8 + length :])
    assert read_checkpoint(path)["a"].tolist() == [0]


def to_transformers_names(net) -> dict[str, torch.Tensor]:
    """A timm vision transformer's weights, named as transformers' ViTModel saves them."""
    inner = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    out = {
        "embeddings.cls_token": net.cls_token,
        "embeddings.position_embeddings": net.pos_embed,
        "embeddings.patch_embeddings.projection.weight": net.patch_embed.proj.weight,
        "embeddings.patch_embeddings.projection.bias": net.patch_embed.proj.bias,
        "layernorm.weight": net.norm.weight,
        "layernorm.bias": net.norm.bias,
        "pooler.dense.weight": torch.zeros(2, 2),
    }
    for index, block in enumerate(net.blocks):
        layer = f"encoder.layer.{index}"
        for kind in ("weight", "bias"):
            parts = getattr(block.attn.qkv, kind).chunk(3)
            for which, part in zip(("query", "key", "value"), parts, strict=True):
                out[f"{layer}.attention.attention.{which}.{kind}"] = part
            for ours, theirs in inner.items():
                out[f"{layer}.{theirs}.{kind}"] = getattr(block.get_submodule(ours), kind)
    return {name: value.detach().clone() for name, value in out.items()}


def small_vit(seed: int, name: str = "vit_base_patch16_224", **kwargs):
    torch.manual_seed(seed)
    net = timm.create_model(name, num_classes=0, embed_dim=32, depth=2, num_heads=4, **kwargs).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net


def test_transformers_weights_give_the_same_embeddings(tmp_path):
    """Phikon is published as a transformers checkpoint."""
    net, other = small_vit(1), small_vit(2)
    safetensors.torch.save_file(to_transformers_names(net), tmp_path / "model.safetensors")
    load_weights(other, tmp_path / "model.safetensors")
    x = torch.randn(2, 3, 224, 224)
    assert torch.equal(net(x), other(x))


def test_a_transformers_file_without_a_weight_is_refused(tmp_path):
    net = small_vit(1)
    weights = to_transformers_names(net)
    del weights["encoder.layer.1.attention.attention.key.weight"]
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"'blocks.1.attn.qkv.weight' is missing"):
        load_weights(net, tmp_path / "model.safetensors")


def test_dinov2_weights_of_its_authors_give_the_same_embeddings(tmp_path):
    """Their file calls the registers otherwise, and its class token has a position of its own."""
    kwargs = {"dynamic_img_size": True, "img_size": 56}
    net, other = (small_vit(seed, "vit_large_patch14_reg4_dinov2", **kwargs) for seed in (1, 2))
    weights = {k: v.clone() for k, v in net.state_dict().items()}
    position = torch.randn(1, 1, 32)
    weights["cls_token"] = weights["cls_token"] - position
    weights["pos_embed"] = torch.cat([position, weights["pos_embed"]], dim=1)
    weights["register_tokens"] = weights.pop("reg_token")
    weights["mask_token"] = torch.zeros(1, 32)
    torch.save(weights, tmp_path / "dinov2.pth")
    load_weights(other, tmp_path / "dinov2.pth")
    x = torch.randn(2, 3, 56, 56)
    torch.testing.assert_close(net(x), other(x), rtol=1e-4, atol=1e-4)
