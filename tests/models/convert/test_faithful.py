"""A model of latent diffusion, converted, computes what it computed there, or is refused."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from helpers import ldm_form
from helpers.checkpoints import save_checkpoint
from helpers.models import save_encoder
from safetensors.torch import save_file

from largegen.errors import InputError, ModelError
from largegen.models.convert.convert import convert
from largegen.models.convert.published import read_published
from largegen.models.denoiser import to_eps
from largegen.models.model import load_model

DIM = 48
UNET = {
    **{"image_size": 8, "in_channels": 3, "out_channels": 3, "model_channels": 32, "num_res_blocks": 1},
    **{"attention_resolutions": [2], "channel_mult": [1, 2], "num_heads": 1, "use_spatial_transformer": True},
    **{"transformer_depth": 1, "context_dim": 16},
}
VQ = {
    **{"embed_dim": 3, "n_embed": 8},
    "ddconfig": {
        **{"double_z": False, "z_channels": 3, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 32},
        **{"ch_mult": [1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0},
    },
}


def form(unet=None, conditioner=None, autoencoder=None, **params):
    """The config of a tiny latent diffusion model; values of None are left out."""
    sections = {
        "unet_config": {"params": UNET | (unet or {})},
        "first_stage_config": {"params": VQ | (autoencoder or {})},
        "cond_stage_config": {"target": "a.PatchEmbedder", "params": {"normalize_ssl": True} | (conditioner or {})},
    }
    found = {"linear_start": 0.0015, "linear_end": 0.0195, "timesteps": 1000, **sections} | params
    return {"model": {"params": {key: value for key, value in found.items() if value is not None}}}


@pytest.fixture(scope="module")
def weights():
    generator = torch.Generator().manual_seed(0)
    shapes = dict(ldm_form.denoiser(**UNET)) | dict(ldm_form.autoencoder(**VQ))
    shapes |= {"cond_stage_model.patch_fc.weight": (16, DIM), "cond_stage_model.patch_fc.bias": (16,)}
    return {name: 0.05 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return f"local-dir:{save_encoder(tmp_path_factory.mktemp('encoder') / 'e', width=DIM)}"


@pytest.fixture
def converted(tmp_path, weights, encoder):
    """Convert the tiny checkpoint with a config, and perhaps other weights, and load it."""

    def made(config=None, changed=None, name="a"):
        source = save_checkpoint(tmp_path / name, changed or weights, config or form())
        convert(source, tmp_path / f"{name}-model", encoder=encoder)
        return load_model(tmp_path / f"{name}-model", "cpu", "fp32")

    return made


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, 8, 8, generator=generator), torch.randn(2, DIM, generator=generator)


def predicted(model, inputs):
    latents, embeddings = inputs
    return model.unet(latents, 500, model.context(embeddings)).sample


@pytest.mark.parametrize(("name", "kind"), [("eps", "epsilon"), ("v", "v_prediction"), ("x0", "sample")])
def test_what_the_denoiser_predicts_is_kept(converted, inputs, name, kind):
    model = converted(form(parameterization=name))
    assert model.scheduler.config.prediction_type == kind
    latents, embeddings = inputs
    context, a = model.context(embeddings), model.scheduler.alphas_cumprod[500]
    output = model.unet(latents, 500, context).sample
    clean = {"eps": (latents - (1 - a).sqrt() * output) / a.sqrt(), "x0": output}
    clean["v"] = a.sqrt() * latents - (1 - a).sqrt() * output
    eps = (latents - a.sqrt() * clean[name]) / (1 - a).sqrt()
    assert torch.allclose(model.eps(latents, 500, context), eps, atol=1e-4)


def test_the_noise_of_clean_latents_is_what_was_added():
    scheduler = DDPMScheduler(prediction_type="sample")
    clean, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    when = torch.tensor([100, 900])
    noisy = scheduler.add_noise(clean, noise, when)
    assert torch.allclose(to_eps(clean, noisy, when, scheduler), noise, atol=1e-3)


@pytest.mark.parametrize("where", ["config", "buffer", "config, whatever is stored"])
def test_the_scale_of_latents_is_used(converted, weights, where):
    """LDM multiplies by scale_factor after encoding and divides before decoding; it stores what it has measured."""
    plain = converted(name="plain").autoencoder
    if where != "buffer":
        stored = {"scale_factor": torch.tensor(0.7)} if "stored" in where else {}
        scaled = converted(form(scale_factor=0.3), weights | stored, name="scaled").autoencoder
    else:
        stored = weights | {"scale_factor": torch.tensor(0.3)}
        scaled = converted(form(scale_by_std=True), stored, name="scaled").autoencoder
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    latents = plain.encode(images)
    assert torch.allclose(scaled.encode(images), 0.3 * latents, rtol=1e-3, atol=1e-6)
    assert torch.allclose(scaled.decode(0.3 * latents), plain.decode(latents), atol=1e-4)


def test_a_scale_that_was_measured_and_is_missing_is_refused(converted):
    with pytest.raises(ModelError, match="scale_factor is missing"):
        converted(form(scale_by_std=True))


@pytest.mark.parametrize("said", [True, False, None])
def test_embeddings_are_normalised_where_the_source_did(converted, said):
    """The authors' conditioner doesn't by default."""
    conditioner = {"target": "a.PatchEmbedder", "params": {} if said is None else {"normalize_ssl": said}}
    model = converted(form(cond_stage_config=conditioner))
    embeddings = torch.randn(3, DIM)
    assert torch.allclose(model.context(embeddings), model.context(3 * embeddings), atol=1e-5) == bool(said)


@pytest.mark.parametrize(
    ("said", "betas"),
    [
        ({"linear_start": None, "linear_end": None}, torch.linspace(1e-4**0.5, 2e-2**0.5, 1000) ** 2),
        ({"beta_schedule": "linear"}, torch.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2),
        ({"beta_schedule": "sqrt_linear"}, torch.linspace(0.0015, 0.0195, 1000)),
        ({"timesteps": 500}, torch.linspace(0.0015**0.5, 0.0195**0.5, 500) ** 2),
    ],
)
def test_a_schedule_without_tables_is_what_ldm_makes_of_its_config(converted, said, betas):
    table = converted(form(**said)).scheduler.alphas_cumprod
    assert torch.allclose(table, (1 - betas).cumprod(0), atol=1e-5)


def test_ldm_s_cosine_schedule(converted):
    """openai/improved-diffusion: alpha_bar = cos^2(((t / T) + s) / (1 + s) pi / 2), betas at most 0.999."""
    t = (torch.arange(1001, dtype=torch.float64) / 1000 + 8e-3) / 1.008 * np.pi / 2
    bar = t.cos() ** 2
    betas = (1 - bar[1:] / bar[:-1]).clamp(0, 0.999)
    table = converted(form(beta_schedule="cosine")).scheduler.alphas_cumprod
    assert torch.allclose(table, (1 - betas).cumprod(0).float(), atol=1e-5)


@pytest.mark.parametrize("heads", [{"num_heads": 2}, {"num_heads": -1, "num_head_channels": 16}])
def test_the_heads_of_attention_are_the_source_s(converted, inputs, heads):
    """64 channels: 4 heads of 16, whatever `num_heads` says beside them."""
    one = converted(name="one")
    several = converted(form(unet=heads), name="several")
    count = {2: 2, -1: 4}[heads["num_heads"]]
    assert {m.heads for n, m in several.unet.named_modules() if n.endswith("attn1")} == {count}
    assert not torch.equal(predicted(one, inputs), predicted(several, inputs))


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (form(conditioning_key="concat"), "conditioning_key: concat"),
        (form(given_betas=[0.1]), "given_betas"),
        (form(rescale_betas_zero_snr=True), "rescale_betas_zero_snr"),
        (form(parameterization="score"), "predicts score"),
        (form(beta_schedule="sqrt"), "noise schedule is sqrt"),
        (form(beta_schedule="cosine", cosine_s=0.1), "noise schedule is cosine"),
        (form(unet={"use_scale_shift_norm": True}), "unet_config.use_scale_shift_norm"),
        (form(unet={"num_classes": 10}), "unet_config.num_classes"),
        (form(unet={"num_heads_upsample": 2}), "unet_config.num_heads_upsample"),
        (form(unet={"resblock_updown": True}), "unet_config.resblock_updown"),
        (form(autoencoder={"ddconfig": VQ["ddconfig"] | {"tanh_out": True}}), "ddconfig.tanh_out"),
    ],
)
def test_what_is_not_converted_is_refused_by_name(converted, config, key):
    with pytest.raises(ModelError, match=key):
        converted(config)


def test_a_key_that_is_not_known_is_said(converted, caplog):
    """In every section of the config."""
    conditioner, ddconfig = {"temperature": 2}, VQ["ddconfig"] | {"padding": "wrap"}
    converted(form({"gated": 1}, conditioner, {"ddconfig": ddconfig, "spherical": 1}, mystery=1))
    sections = (
        "cond_stage_config.temperature, ddconfig.padding, first_stage_config.spherical, mystery, unet_config.gated"
    )
    assert f"its config says {sections}, which is not known here" in caplog.text


def test_of_a_published_config_all_keys_are_known(converted, caplog):
    unet = {"use_checkpoint": False, "use_fp16": False, "dropout": 0.1, "legacy": False, "num_head_channels": -1}
    autoencoder = {"lossconfig": {"target": "torch.nn.Identity"}, "monitor": "val/rec_loss"}
    converted(form(unet, {"patch_ssl_key": "feat_patch", "patch_embed_dim": DIM}, autoencoder, use_ema=False))
    assert "not known" not in caplog.text


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read(converted, weights, inputs, dtype):
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.0015, beta_end=0.0195)
    tables = {"alphas_cumprod": scheduler.alphas_cumprod, "betas": scheduler.betas}
    half = {name: value.to(dtype) for name, value in (weights | tables).items()}
    whole, found = converted(name="whole"), converted(changed=half, name="half")
    assert torch.allclose(predicted(whole, inputs), predicted(found, inputs), atol=0.02)


def test_eight_bits_are_refused_by_name(converted, weights):
    name = next(iter(weights))
    with pytest.raises(ModelError, match="float8_e4m3fn"):
        converted(changed=weights | {name: weights[name].to(torch.float8_e4m3fn)})


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda n: n.replace("model.diffusion_model.", "model.diffusion_model._orig_mod."),
        lambda n: f"_orig_mod.{n}",
        lambda n: f"module.{n}",
        lambda n: n.replace("model.diffusion_model.", "model.diffusion_model.module."),
        lambda n: f"module._orig_mod.{n}",
        lambda n: n.replace("first_stage_model.", "first_stage_model._orig_mod."),
    ],
)
def test_names_of_wrappers_are_read(converted, weights, inputs, wrapped):
    plain, found = converted(name="plain"), converted(changed={wrapped(n): v for n, v in weights.items()}, name="w")
    assert torch.equal(predicted(plain, inputs), predicted(found, inputs))


def test_the_average_of_a_compiled_denoiser_is_read(converted, weights, inputs):
    stem = "model.diffusion_model."
    compiled = {n.replace(stem, f"{stem}_orig_mod."): v * 2 for n, v in weights.items() if n.startswith(stem)}
    average = {
        "model_ema."
        + n.removeprefix("model.").replace("diffusion_model.", "diffusion_model._orig_mod.").replace(".", ""): v
        for n, v in weights.items()
        if n.startswith(stem)
    }
    rest = {n: v for n, v in weights.items() if not n.startswith(stem)}
    plain, found = converted(name="plain"), converted(changed=rest | compiled | average, name="ema")
    assert torch.equal(predicted(plain, inputs), predicted(found, inputs))


def test_safetensors_in_a_folder_are_found(tmp_path, weights):
    folder = save_checkpoint(tmp_path / "a", weights, form())
    (folder / "model.ckpt").unlink()
    save_file(weights, folder / "model.safetensors")
    assert read_published(folder)[1].source.name == "model.safetensors"


def test_an_encoder_of_one_s_own_is_recorded(tmp_path, weights):
    source = save_checkpoint(tmp_path / "a", weights, form())
    with pytest.raises(ModelError, match="`embedding_dim`"):
        convert(source, tmp_path / "m", encoder="inhouse")
    with pytest.raises(InputError, match="gives 47-dimensional embeddings, but the model takes 48"):
        convert(source, tmp_path / "m", encoder="inhouse", embedding_dim=47)
    with pytest.raises(InputError, match="`embedding_dim`: is that of an `encoder`"):
        convert(source, tmp_path / "m", embedding_dim=DIM)
    convert(source, tmp_path / "m", encoder="inhouse", embedding_dim=DIM)
    info = load_model(tmp_path / "m", "cpu", "fp32").info
    assert (info.encoder, info.embedding_dim, info.encoder_fingerprint) == ("inhouse", DIM, None)
