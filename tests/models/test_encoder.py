"""Encoders: the registry, what a name means, embeddings, and errors of one line."""

import json

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from largegen.errors import HubError, ModelError
from largegen.models import encoder
from largegen.models.encoder import EncoderOnDemand, encoder_names, encoder_spec, load_encoder
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


def test_weights_that_are_waited_for_are_loaded_with_the_first_tiles(directory, monkeypatch):
    loaded, name, cpu = load_encoder(f"local-dir:{directory}"), f"local-dir:{directory}", torch.device("cpu")
    calls = []
    monkeypatch.setattr(encoder, "load_encoder", lambda *options: calls.append(options) or loaded)
    waiting = EncoderOnDemand(name, loaded.fingerprint, None, cpu)
    assert (waiting.spec, waiting.dim, waiting.dtype) == (loaded.spec, loaded.dim, loaded.dtype) and not calls
    for _ in range(2):
        assert np.array_equal(waiting.encode(tiles(2)), loaded.encode(tiles(2)))
    assert len(calls) == 1
    with pytest.raises(ModelError, match=rf"weights \({loaded.fingerprint}\) are not .* trained with \(beef\)"):
        EncoderOnDemand(name, "beef", None, cpu).encode(tiles(1))
