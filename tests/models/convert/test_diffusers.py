"""A directory of diffusers, converted or initial weights, computes what it computed there, or is refused."""

import json
import shutil

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from helpers.models import save_encoder, save_model
from safetensors.torch import load_file, save_file

from largegen.errors import ModelError
from largegen.models.autoencoder import load_autoencoder
from largegen.models.convert.convert import convert
from largegen.models.convert.published import read_published
from largegen.models.model import load_model
from largegen.models.start_from import start_from
from largegen.models.storage import load_network


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A directory of diffusers, whose denoiser predicts v."""
    folder = tmp_path_factory.mktemp("diffusers") / "pipeline"
    torch.manual_seed(0)
    blocks = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
    vae = AutoencoderKL(3, 3, *blocks, (8, 16, 16, 16), 1, latent_channels=4, norm_num_groups=4)
    vae.save_pretrained(folder / "vae")
    UNet2DConditionModel(
        **{"sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (16, 32)},
        **{"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "layers_per_block": 1},
        **{"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "cross_attention_dim": 32},
        **{"attention_head_dim": 1, "norm_num_groups": 8},
    ).save_pretrained(folder / "unet")
    schedule = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    DDIMScheduler(**schedule, prediction_type="v_prediction").save_pretrained(folder / "scheduler")
    return folder


@pytest.fixture
def copy(pipeline, tmp_path):
    return shutil.copytree(pipeline, tmp_path / "pipeline")


def edit(file, **changes):
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.mark.parametrize(
    "changes",
    [
        {"_class_name": "FlowMatchEulerDiscreteScheduler"},
        {"_class_name": "EDMEulerScheduler"},
        {"rescale_betas_zero_snr": True},
        {"prediction_type": "flow"},
    ],
)
def test_diffusion_of_another_kind_is_refused(copy, changes):
    edit(copy / "scheduler" / "scheduler_config.json", **changes)
    with pytest.raises(ModelError):
        read_published(copy)


def test_a_denoiser_without_its_schedule_is_said(copy, caplog):
    shutil.rmtree(copy / "scheduler")
    read_published(copy)
    assert "has no scheduler/; taken for" in caplog.text


def test_initial_weights_keep_what_they_predict(pipeline, tmp_path, caplog):
    """And the noise schedule that they know."""
    convert(pipeline, tmp_path / "start")
    model = load_model(save_model(tmp_path / "m", save_encoder(tmp_path / "e")), "cpu", "fp32")
    start_from(model, tmp_path / "start")
    assert model.scheduler.config.prediction_type == "v_prediction"
    assert "predicts v_prediction, not epsilon; going on with that" in caplog.text
    assert "noise schedule is another one" in caplog.text
    assert "the latents of another autoencoder" in caplog.text
    source = load_network(pipeline / "unet", {"UNet2DConditionModel": UNet2DConditionModel})
    latents, context = torch.randn(1, 4, 8, 8), torch.randn(1, 1, 32)
    found, wanted = (unet(latents, 3, context).sample for unet in (model.unet, source))
    assert torch.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("changes", [{"attention_head_dim": 2}, {"norm_eps": 1e-3}, {"act_fn": "gelu"}])
def test_initial_weights_of_a_network_that_computes_otherwise_are_refused(copy, tmp_path, changes):
    """Though their names and shapes are the same."""
    edit(copy / "unet" / "config.json", **changes)
    convert(copy, tmp_path / "start")
    model = load_model(save_model(tmp_path / "m", save_encoder(tmp_path / "e")), "cpu", "fp32")
    with pytest.raises(ModelError, match=f"another form: {next(iter(changes))}"):
        start_from(model, tmp_path / "start")


def encoded(vae):
    return load_autoencoder(vae).encode(torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64))


@pytest.mark.parametrize("shape", ["linear", "convolution"])
def test_older_names_of_attention_are_read(pipeline, copy, shape):
    """diffusers before 0.18 called them query, key, value and proj_attn; most autoencoders on the hub still do."""
    file = copy / "vae" / "diffusion_pytorch_model.safetensors"
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    older = {}
    for name, value in load_file(file).items():
        for today, before in names.items():
            if f".{today}." in name:
                name = name.replace(f".{today}.", f".{before}.")
                value = value[:, :, None, None] if shape == "convolution" and value.ndim == 2 else value
        older[name] = value.contiguous()
    assert any("proj_attn" in name for name in older)
    save_file(older, file)
    assert torch.equal(encoded(copy / "vae"), encoded(pipeline / "vae"))


def test_shards_are_read(pipeline, copy):
    file = copy / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    file.unlink()
    names = sorted(weights)
    parts = {f"diffusion_pytorch_model-0000{k + 1}-of-00002.safetensors": names[k::2] for k in range(2)}
    for part, members in parts.items():
        save_file({name: weights[name] for name in members}, copy / "vae" / part)
    index = {"metadata": {}, "weight_map": {name: part for part, members in parts.items() for name in members}}
    (copy / "vae" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(encoded(copy / "vae"), encoded(pipeline / "vae"))
    (copy / "vae" / next(iter(parts))).unlink()
    with pytest.raises(ModelError, match="no such file"):
        load_autoencoder(copy / "vae")


def test_a_variant_in_half_precision_is_read(pipeline, copy):
    file = copy / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({n: v.half() for n, v in load_file(file).items()}, file.with_suffix(".fp16.safetensors"))
    file.unlink()
    (found,) = [path for path in (copy / "vae").iterdir() if "fp16" in path.name]
    assert torch.allclose(encoded(copy / "vae"), encoded(pipeline / "vae"), atol=0.05)
    shutil.copy(found, found.with_name("diffusion_pytorch_model.bf16.safetensors"))
    with pytest.raises(ModelError, match="leave one of them there"):
        load_autoencoder(copy / "vae")
