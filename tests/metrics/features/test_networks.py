"""Feature networks, on stand-ins with random weights: what clean-fid and CLIP do is the reference."""

import warnings
from dataclasses import replace

import cleanfid.fid
import cleanfid.resize
import numpy as np
import pytest
import torch
from cleanfid.inception_torchscript import InceptionV3W
from helpers.models import save_encoder
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from largegen.errors import HubError, InputError, ModelError
from largegen.metrics.features import networks
from largegen.metrics.features.networks import load_network
from largegen.models.encoder import load_encoder
from largegen.models.safe_load import read_checkpoint

RNG = np.random.default_rng(0)
FILE = "inception-2015-12-05.pt"  # the name that clean-fid opens in a folder


def images(count, height=96, width=96):
    """(count, height, width, 3) uint8, each a smooth colour field with noise."""
    coarse = RNG.uniform(0, 255, (count, 8, 8, 3)).astype(np.uint8)
    smooth = [np.asarray(Image.fromarray(c).resize((width, height), Image.Resampling.BICUBIC)) for c in coarse]
    return (np.stack(smooth) + RNG.normal(0, 20, (count, height, width, 3))).clip(0, 255).astype(np.uint8)


def features_of(network, batch):
    return network.features(np.stack([network.prepare(image) for image in batch]))


def save_script(module, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(module.eval()).save(str(path))
    return path


class StandIn(nn.Module):
    """As Inception's file: `layers` from (B, 3, 299, 299) to (B, 2048, 1, 1)."""

    def __init__(self):
        super().__init__()
        convolution = nn.Conv2d(3, 64, 7, stride=8, bias=False), nn.BatchNorm2d(64), nn.ReLU()
        self.layers = nn.Sequential(*convolution, nn.Conv2d(64, 2048, 3, stride=4), nn.ReLU(), nn.AvgPool2d(9))


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    torch.manual_seed(0)
    return save_script(StandIn(), tmp_path_factory.mktemp("inception") / FILE)


def test_inception_features_and_fid_are_clean_fids(inception_file, tmp_path):
    sets = images(24), images(24, 330, 310)  # enlarged and shrunk
    network = load_network("inception", inception_file, "cpu")
    reference = InceptionV3W(str(inception_file.parent), download=False)
    ours, theirs = [], []
    for number, batch in enumerate(sets):
        folder = tmp_path / str(number)
        folder.mkdir()
        for index, image in enumerate(batch):
            Image.fromarray(image).save(folder / f"{index:02}.png")
        options = {"num_workers": 0, "device": torch.device("cpu"), "mode": "clean", "verbose": False}
        theirs.append(cleanfid.fid.get_folder_features(str(folder), reference, **options))
        ours.append(features_of(network, batch))
        assert ours[-1].shape == (24, 2048) and ours[-1].dtype == np.float32
        assert np.allclose(ours[-1], theirs[-1], rtol=1e-5, atol=1e-5 * theirs[-1].max())
    varied = np.argsort(theirs[0].var(0))[-12:]  # the distance of 2048 features takes a minute
    distances = [cleanfid.fid.fid_from_feats(*(f[:, varied] for f in both)) for both in (ours, theirs)]
    assert distances[1] > 0 and distances[0] == pytest.approx(distances[1], rel=1e-3)


def test_inception_features_do_not_depend_on_the_batch(inception_file):
    network = load_network("inception", inception_file, "cpu")
    batch = images(5)
    one_by_one = np.concatenate([features_of(network, batch[i : i + 1]) for i in range(5)])
    assert np.allclose(features_of(network, batch), one_by_one, rtol=1e-5, atol=1e-5 * one_by_one.max())


def test_inception_is_standard_only_with_the_known_file_in_fp32(inception_file, monkeypatch):
    network = load_network("inception", inception_file, "cpu")
    assert not network.standard and network.dim == 2048 and network.device == torch.device("cpu")
    monkeypatch.setattr(networks, "INCEPTION_SHA256", network.key["sha256"])
    assert load_network("inception", inception_file, "cpu").standard
    halved = load_network("inception", inception_file, "cpu", torch.bfloat16)
    assert not halved.standard
    assert halved.key == network.key | {"precision": "bfloat16"}


def test_loading_inception_warns_of_nothing(inception_file):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch says that TorchScript is deprecated, which no user can do anything about
        load_network("inception", inception_file, "cpu")


def test_inception_is_fetched_checked_and_found_in_the_cache(inception_file, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(HubError, match=rf"download it from https://\S+{FILE} and give `inception_weights` FILE"):
        load_network("inception", device="cpu")
    kept = tmp_path / "largegen" / FILE
    kept.parent.mkdir()
    kept.write_bytes(inception_file.read_bytes())
    with pytest.raises(HubError):  # another file under its name is not opened
        load_network("inception", device="cpu")
    monkeypatch.setattr(networks, "INCEPTION_SHA256", networks.file_sha256(kept))
    assert load_network("inception", device="cpu").standard


def test_what_is_no_inception_is_one_line(tmp_path):
    text = tmp_path / "text.pt"
    text.write_text("not a network")
    other = save_script(nn.Sequential(nn.Linear(3, 3)), tmp_path / "other.pt")
    wrong = nn.Module()
    wrong.layers = nn.Linear(7, 7)
    narrow = save_script(wrong, tmp_path / "narrow.pt")
    for file in (text, other, narrow):
        with pytest.raises(ModelError, match=f"{file.name}: .*`layers`") as caught:
            load_network("inception", file, "cpu")
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="cannot be read"):
        load_network("inception", tmp_path / "absent.pt", "cpu")


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // 64)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        for name, layer in (("c_fc", nn.Linear(width, 128)), ("gelu", QuickGELU()), ("c_proj", nn.Linear(128, width))):
            self.mlp.add_module(name, layer)

    def forward(self, x):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Tower(nn.Module):
    """CLIP's image tower (Radford et al. 2021) in its own names, narrow and two blocks deep."""

    def __init__(self, width=128, out=24):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 32, 32, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn(50, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.Sequential(Block(width), Block(width))
        self.proj = nn.Parameter(torch.randn(width, out))

    def forward(self, x):
        x = self.conv1(x).flatten(2).permute(0, 2, 1)
        first = self.class_embedding.expand(x.shape[0], 1, -1)
        x = self.ln_pre(torch.cat([first, x], dim=1) + self.positional_embedding)
        x = self.transformer.resblocks(x.permute(1, 0, 2)).permute(1, 0, 2)
        return self.ln_post(x[:, 0]) @ self.proj


class Clip(nn.Module):
    def __init__(self):
        super().__init__()
        self.visual = Tower()
        self.text_projection = nn.Parameter(torch.randn(4, 4))  # beside the tower, and left out

    def forward(self, x):
        return self.visual(x)


@pytest.fixture
def clip(monkeypatch):
    """A narrow CLIP in fp32 whose weights are fp16 numbers, as those of the published file are."""
    kwargs = {"num_classes": 24, "embed_dim": 128, "depth": 2, "num_heads": 2, "mlp_ratio": 1}
    monkeypatch.setattr(networks, "CLIP", replace(networks.CLIP, dim=24, timm_kwargs=kwargs))
    torch.manual_seed(1)
    return Clip().half().float().eval()


def clip_files(clip, folder):
    """The same weights in every form that they are published in."""
    halves = {name: value.half() for name, value in clip.state_dict().items()}
    archive, plain, tensors = folder / "ViT-B-32.pt", folder / "open_clip.bin", folder / "open_clip.safetensors"
    save_script(clip.half(), archive)
    torch.save(halves, plain)
    save_file({name: value.float() for name, value in halves.items()}, tensors)
    own = folder / "model.safetensors"
    save_file(load_encoder(networks.CLIP, plain, "cpu").net.state_dict(), own)
    clip.float()
    return archive, plain, tensors, own


def test_clip_features_are_those_of_clip_whatever_the_form_of_the_file(clip, tmp_path):
    image = images(1, 300, 400)[0]
    shrunk = Image.fromarray(image).resize((298, 224), Image.Resampling.BICUBIC)
    seen = np.asarray(shrunk)[:, 37:261]
    mean, std = (torch.tensor(values) for values in (networks.CLIP.mean, networks.CLIP.std))
    with torch.inference_mode():
        expected = clip(((torch.tensor(seen) / 255 - mean) / std).permute(2, 0, 1)[None]).numpy()
    keys = set()
    for file in clip_files(clip, tmp_path):
        network = load_network("clip", file, "cpu")
        assert network.dim == 24 and network.licence == "MIT" and not network.standard
        assert np.array_equal(network.prepare(image), seen)
        found = features_of(network, [image])
        assert found.dtype == np.float32
        assert np.allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
        keys.add(network.key["fingerprint"])
    assert len(keys) == 1  # statistics from any of the files can be compared


def test_clip_is_standard_with_openais_file(clip, tmp_path, monkeypatch):
    archive, *_ = clip_files(clip, tmp_path)
    monkeypatch.setattr(networks, "CLIP_SHA256", networks.file_sha256(archive))
    assert load_network("clip", archive, "cpu").standard
    assert not load_network("clip", archive, "cpu", torch.bfloat16).standard


def test_clip_without_weights_names_its_own_option(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(HubError, match=r"huggingface\.co/timm/vit_base_patch32_clip_224\.openai.*`clip_weights` FILE"):
        load_network("clip", device="cpu")


def test_a_torchscript_archive_gives_its_weights_and_runs_nothing(tmp_path):
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 2)
            self.register_buffer("table", torch.arange(6).view(2, 3).T)

        def forward(self, x):
            return self.inner(x)

        @torch.jit.export
        def __getstate__(self):
            return self.table, self.training

        @torch.jit.export
        def __setstate__(self, state: tuple[torch.Tensor, bool]):
            raise RuntimeError("this code ran")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.plain = Layer(), nn.BatchNorm1d(3)
            self.words, self.table = ["a"], torch.arange(6).view(2, 3).T

        def forward(self, x):
            return self.first(x)

    net = Net()
    path = save_script(net, tmp_path / "net.pt")
    found = read_checkpoint(path)
    expected = {name: value for name, value in net.state_dict().items() if name.startswith("plain.")}
    assert found.keys() == expected.keys() | {"table"}  # what a module's own code would restore is left out
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert torch.equal(found["table"], net.table)


def test_encoder_features_are_its_embeddings_at_unit_length(tmp_path):
    directory = save_encoder(tmp_path / "encoder")
    network = load_network(f"encoder:local-dir:{directory}", device="cpu")
    encoder = load_encoder(f"local-dir:{directory}", device="cpu")
    batch = images(3)
    found, expected = features_of(network, batch), encoder.encode(batch)
    assert np.allclose(np.linalg.norm(found, axis=1), 1)
    assert np.allclose(found, expected / np.linalg.norm(expected, axis=1)[:, None])
    assert (network.dim, network.licence) == (encoder.dim, "CC-BY-4.0")


def test_a_copy_of_an_encoder_has_the_same_key_and_another_encoder_has_not(tmp_path):
    keys = [
        load_network(f"encoder:local-dir:{save_encoder(tmp_path / name, seed)}", device="cpu").key
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert keys[0] == keys[1] != keys[2]


def test_an_encoders_weights_may_be_named(tmp_path):
    directory, other = save_encoder(tmp_path / "a"), save_encoder(tmp_path / "b", seed=1)
    named = load_network(f"encoder:local-dir:{directory}", other / "model.safetensors", "cpu")
    assert named.key == load_network(f"encoder:local-dir:{other}", device="cpu").key


@pytest.mark.parametrize("name", ["resnet", "encoder:", "inception:x", ""])
def test_an_unknown_network_names_those_there_are(name):
    with pytest.raises(InputError, match="use inception, clip, vgg16 or encoder:NAME"):
        load_network(name, device="cpu")
