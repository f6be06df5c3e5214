"""Encoders: the registry, weight files in every published form, and errors of one line."""

import json

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from largegen.errors import HubError, ModelError
from largegen.models import encoder
from largegen.models.encoder import encoder_names, encoder_spec, load_encoder
from largegen.models.safe_load import read_checkpoint
from largegen.models.timm_weights import load_weights
from largegen.runtime import hub


@pytest.fixture
def directory(tmp_path):
    """An encoder directory of the form that `largegen train-encoder` writes, with random weights."""
    torch.manual_seed(0)
    net = timm.create_model("test_resnet", num_classes=24)
    safetensors.torch.save_file(
        {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()},
        tmp_path / "model.safetensors",
    )
    config = {
        "format": "largegen-encoder",
        "architecture": "test_resnet",
        "width": 24,
        "input_px": 96,
        "mean": [0.7, 0.6, 0.7],
        "std": [0.2, 0.2, 0.2],
        "licence": "Apache-2.0",
        "timm_kwargs": {},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def tiles(count: int, side: int = 128) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


@pytest.mark.parametrize(
    ("name", "width", "millions"),
    [
        ("uni_v1", 1024, 303.4),
        ("uni_v2", 1536, 681.4),
        ("dinov2_vitl14_reg", 1024, 304.4),
        ("phikon", 768, 85.8),
        ("hipt_vit256", 384, 21.7),
        ("ctranspath", 768, 27.5),
    ],
)
def test_a_registered_encoder_has_its_published_size(name, width, millions):
    spec = encoder_spec(name)
    net = encoder._build(spec, device="meta")
    assert spec.dim == net.num_features == width
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)
    assert spec.licence and spec.page.startswith("https://")


def test_non_commercial_licences_are_said():
    assert encoder_spec("uni_v1").licence == encoder_spec("uni_v2").licence == "CC-BY-NC-ND-4.0"
    assert all("non-commercial" in encoder_spec(name).licence for name in ("phikon", "ctranspath"))


def test_a_hub_name_of_a_registered_encoder_is_that_encoder():
    assert encoder_spec("hf-hub:MahmoodLab/UNI") is encoder_spec("uni_v1")


def test_a_timm_name_brings_its_own_transform():
    spec = encoder_spec("test_vit")
    assert (spec.dim, spec.input_px, spec.licence) == (64, 160, "apache-2.0")
    assert spec.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("name", ["no_such_network", "local-dir:", "hf-hub:", ""])
def test_an_unknown_name_lists_what_is_known(name):
    with pytest.raises(ModelError, match="uni_v1") as caught:
        encoder_spec(name)
    assert "\n" not in str(caught.value)


def test_an_own_directory_is_loaded_and_used(directory):
    encoder = load_encoder(f"local-dir:{directory}", device="cpu")
    embeddings = encoder.encode(tiles(3))
    assert embeddings.shape == (3, 24) and embeddings.dtype == np.float32
    assert encoder.dim == 24 and encoder.spec.licence == "Apache-2.0"


def test_the_transform_is_resize_then_normalise(directory):
    encoder = load_encoder(f"local-dir:{directory}", device="cpu")
    grey = np.full((1, 200, 200, 3), 51, np.uint8)  # 0.2 in [0, 1]
    expected = (torch.full((1, 3, 96, 96), 0.2) - torch.tensor([0.7, 0.6, 0.7]).view(1, 3, 1, 1)) / 0.2
    with torch.inference_mode():
        np.testing.assert_allclose(encoder.encode(grey), encoder.net(expected).numpy(), rtol=1e-4, atol=1e-5)


def test_resizing_is_the_antialiased_bicubic_of_pillow(directory):
    from PIL import Image

    encoder = load_encoder(f"local-dir:{directory}", device="cpu")
    seen = []
    encoder.net = lambda x: seen.append(x) or x.flatten(1)[:, :24]
    tile = tiles(1, 200)
    encoder.encode(tile)
    expected = np.asarray(Image.fromarray(tile[0]).resize((96, 96), Image.Resampling.BICUBIC)) / 255
    pixels = seen[0][0].permute(1, 2, 0).numpy() * 0.2 + [0.7, 0.6, 0.7]
    difference = np.abs(pixels - expected) * 255  # Pillow rounds between its two passes
    assert difference.max() < 4 and difference.mean() < 0.5


def test_the_fingerprint_is_of_the_weights(directory):
    encoder = load_encoder(f"local-dir:{directory}", device="cpu")
    again = load_encoder(f"local-dir:{directory}", device="cpu")
    assert encoder.fingerprint == again.fingerprint
    with torch.no_grad():
        next(iter(again.net.parameters())).add_(0.1)
    del again.fingerprint
    assert encoder.fingerprint != again.fingerprint


def test_the_fingerprint_is_the_same_in_every_precision(directory):
    fingerprints = {
        load_encoder(f"local-dir:{directory}", device="cpu", dtype=dtype).fingerprint
        for dtype in (torch.float32, torch.float16, torch.bfloat16)
    }
    assert len(fingerprints) == 1


def test_a_timm_directory_is_loaded(tmp_path):
    net = timm.create_model("test_vit", num_classes=5)
    timm.models.save_for_hf(net, tmp_path, safe_serialization=True)
    encoder = load_encoder(f"local-dir:{tmp_path}", device="cpu")
    assert encoder.encode(tiles(2, 64)).shape == (2, 64)


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


def test_a_prefix_that_only_some_names_have_stays(tmp_path):
    weights = timm.create_model("test_vit", num_classes=0).state_dict()
    weights["module.cls_token"] = weights.pop("cls_token")
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="'cls_token' is missing"):
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


def test_offline_a_hub_encoder_is_one_line_with_its_page(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    ways = [
        ("uni_v1", "MahmoodLab/UNI.*`encoder_weights`", None),
        ("hf-hub:some/thing", "some/thing.*local-dir:DIR", None),
        ("hf-hub:some/thing", "some/thing.*local-dir:DIR", tmp_path / "weights.safetensors"),  # says not what it is
    ]
    for name, words, weights in ways:
        with pytest.raises(HubError, match=f"https://huggingface.co/{words}") as caught:
            load_encoder(name, weights, device="cpu")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "message"),
    [("GatedRepoError", "accept its terms"), ("RepositoryNotFoundError", "not on the hub")],
)
def test_a_gated_or_unknown_repository_names_its_page(monkeypatch, error, message):
    import huggingface_hub.errors

    kind = getattr(huggingface_hub.errors, error)

    def refuse(*_, **__):
        raise kind.__new__(kind)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    monkeypatch.setattr(hub, "_hub_reachable", lambda: True)
    with pytest.raises(HubError, match=message) as caught:
        load_encoder("uni_v1", device="cpu")
    assert "https://huggingface.co/MahmoodLab/UNI" in str(caught.value) and "`encoder_weights`" in str(caught.value)


def test_an_unreachable_hub_is_found_out_at_once(monkeypatch):
    import socket

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    assert not hub._hub_reachable()
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert hub._hub_reachable()


def test_starter_is_listed_where_it_is_installed(monkeypatch, directory, tmp_path):
    monkeypatch.setattr(encoder, "STARTER_DIR", tmp_path / "absent")
    assert "starter" not in encoder_names()
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        load_encoder("starter", device="cpu")
    monkeypatch.setattr(encoder, "STARTER_DIR", directory)
    assert encoder_names()[0] == "starter"
    assert load_encoder("starter", device="cpu").dim == 24


def test_a_damaged_encoder_directory_is_one_line(directory):
    (directory / "config.json").write_text('{"format": "largegen-encoder", "width": 24}')
    with pytest.raises(ModelError, match="not an encoder's configuration"):
        load_encoder(f"local-dir:{directory}", device="cpu")
    (directory / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not readable as JSON"):
        load_encoder(f"local-dir:{directory}", device="cpu")
