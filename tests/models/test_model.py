"""A model directory is loaded whole and sound, or refused in one line."""

import json
import shutil

import pytest
import safetensors.torch
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, DDPMScheduler, VQModel
from helpers.models import WIDTH, save_encoder, save_model

from largegen.errors import InputError, ModelError
from largegen.models.autoencoder import Autoencoder, load_autoencoder
from largegen.models.denoiser import NOISE_SCHEDULE, PRESETS, build_denoiser, to_eps
from largegen.models.info import ModelInfo, TrainingSlide
from largegen.models.model import build_model, load_model
from largegen.models.start_from import start_from

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return save_model(folder / "model", save_encoder(folder / "encoder"))


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


@pytest.fixture
def model(saved):
    return load_model(saved, "cpu", "fp32")


def state(model):
    networks = (model.unet, model.conditioner, model.autoencoder.vae)
    return [value for network in networks for value in network.state_dict().values()]


def test_a_model_comes_back_as_it_was(model, tmp_path):
    model.save(tmp_path / "again", encoder=model.directory / "encoder")
    again = load_model(tmp_path / "again", "cpu", "fp32")
    assert all(torch.equal(a, b) for a, b in zip(state(model), state(again), strict=True))
    assert again.info == model.info and again.scheduler.config == model.scheduler.config
    assert (tmp_path / "again" / "encoder" / "model.safetensors").is_file()
    latents, timestep = torch.randn(2, 4, 8, 8), torch.tensor([3, 900])
    context = model.context(torch.randn(2, WIDTH))
    assert torch.equal(model.eps(latents, timestep, context), again.eps(latents, timestep, context))
    assert torch.equal(model.null_context(), again.null_context())


def test_its_sizes(model):
    assert (model.factor, model.window, model.tile_px) == (8, 8, 64)
    assert model.eps(torch.zeros(2, 4, 8, 8), 0, model.null_context().expand(2, -1, -1)).dtype == torch.float32


def test_weights_as_fp16_take_half_the_room(model, tmp_path):
    model.save(tmp_path / "half", torch.float16)
    for part in ("unet", "vae", "conditioner"):
        half, full = (path / part / WEIGHTS for path in (tmp_path / "half", model.directory))
        assert all(value.dtype == torch.float16 for value in safetensors.torch.load_file(half).values())
        assert half.stat().st_size < 0.75 * full.stat().st_size
    loaded = load_model(tmp_path / "half", "cpu", "fp32")
    for a, b in zip(state(model), state(loaded), strict=True):
        assert b.dtype == torch.float32
        assert b == pytest.approx(a, abs=1e-3)


def test_bf16_computes_in_bf16_and_answers_in_fp32(saved):
    model = load_model(saved, "cpu", "bf16")
    assert model.dtype == torch.bfloat16 and model.conditioner.dtype == torch.float32
    assert model.eps(torch.zeros(1, 4, 8, 8), 0, model.null_context()).dtype == torch.float32


def test_a_run_directory_stands_for_its_model(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "run" / "model")
    (tmp_path / "run" / "config.json").write_text("{}")
    assert load_model(tmp_path / "run", "cpu").directory == tmp_path / "run" / "model"
    wanted = load_autoencoder(saved).fingerprint
    for path in (tmp_path / "run", saved / "vae"):
        assert load_autoencoder(path).fingerprint == wanted


def test_no_model_there(tmp_path):
    with pytest.raises(ModelError, match=r"no model there .*give a model directory or one of: tissue, aerial, starter"):
        load_model(tmp_path)
    with pytest.raises(ModelError, match="holds no autoencoder"):
        load_autoencoder(tmp_path)
    assert issubclass(ModelError, InputError)


def refused(path, words):
    with pytest.raises(ModelError, match=words) as raised:
        load_model(path, "cpu", "fp32")
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("part", ["unet", "vae", "conditioner"])
def test_a_missing_weight(copy, part):
    weights = safetensors.torch.load_file(copy / part / WEIGHTS)
    name = sorted(weights)[0]
    del weights[name]
    safetensors.torch.save_file(weights, copy / part / WEIGHTS)
    refused(copy, f"{part}/{WEIGHTS}: weight '{name}' is missing")


@pytest.mark.parametrize("part", ["unet", "vae", "conditioner"])
def test_a_weight_of_the_wrong_shape(copy, part):
    weights = safetensors.torch.load_file(copy / part / WEIGHTS)
    name = next(name for name, value in weights.items() if value.ndim > 1)
    weights[name] = weights[name][:-1].clone()
    safetensors.torch.save_file(weights, copy / part / WEIGHTS)
    refused(copy, f"weight '{name}' has shape .*, not ")


def test_a_weight_too_many(copy):
    weights = safetensors.torch.load_file(copy / "unet" / WEIGHTS)
    safetensors.torch.save_file(weights | {"surplus": torch.zeros(1)}, copy / "unet" / WEIGHTS)
    refused(copy, "weight 'surplus' is not part of this network")


@pytest.mark.parametrize("part", ["unet", "vae", "conditioner"])
@pytest.mark.parametrize("size", [0, 1000])
def test_a_damaged_weight_file(copy, part, size):
    weights = copy / part / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:size])
    refused(copy, f"{part}/{WEIGHTS}: (damaged|an empty file)")


@pytest.mark.parametrize(
    "file", [f"unet/{WEIGHTS}", "vae/config.json", "conditioner/config.json", "scheduler/scheduler_config.json"]
)
def test_a_missing_file(copy, file):
    (copy / file).unlink()
    refused(copy, "missing or damaged|no such file")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"info": 3}', "{}"])
def test_a_damaged_index(copy, content):
    (copy / "model_index.json").write_text(content)
    refused(copy, r"model_index\.json: damaged")


@pytest.mark.parametrize(
    "change",
    [
        {"_class_name": "Surprise"},
        {"block_out_channels": "wide"},
        {"block_out_channels": []},
        {"layers_per_block": "many"},
        {"patch_px": 0},
    ],
)
def test_a_damaged_configuration(copy, change):
    path = copy / "vae" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError):
        load_autoencoder(copy)


def test_networks_that_do_not_fit_together(copy):
    path = copy / "conditioner"
    config = json.loads((path / "config.json").read_text()) | {"cross_attention_dim": 8}
    (path / "config.json").write_text(json.dumps(config))
    weights = {"projection.weight": torch.zeros(8, WIDTH), "projection.bias": torch.zeros(8)}
    safetensors.torch.save_file(weights, path / WEIGHTS)
    refused(copy, "unet has cross_attention_dim 32, but its other networks 8")


def test_an_unknown_class(copy):
    path = copy / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"conditioner": "Oracle"}))
    refused(copy, "its class is Oracle, none of PatchConditioner")


def vq():
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    sizes = {"latent_channels": 3, "num_vq_embeddings": 64, "vq_embed_dim": 3, "norm_num_groups": 8}
    return VQModel(block_out_channels=(8, 8, 16), layers_per_block=1, scaling_factor=0.3, **blocks, **sizes).eval()


def kl(**changes):
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return AutoencoderKL(block_out_channels=(8, 16), norm_num_groups=8, **blocks, **changes).eval()


def test_vq_latents_are_used_as_they_are_and_quantised_before_decoding():
    vae = vq()
    autoencoder, image = Autoencoder(vae), torch.rand(2, 3, 32, 32) * 2 - 1
    assert (autoencoder.factor, autoencoder.channels) == (4, 3)
    latents = autoencoder.encode(image)
    with torch.inference_mode():
        assert latents == pytest.approx(vae.encode(image).latents, abs=1e-5)
        assert autoencoder.decode(latents) == pytest.approx(vae.decode(latents).sample, abs=1e-5)
        quantised = vae.quantize(latents)[0]
        assert autoencoder.decode(quantised) == pytest.approx(autoencoder.decode(latents), abs=1e-5)


def test_a_vq_model_is_saved_and_loaded(model, tmp_path):
    form = PRESETS["tiny"]
    made = build_model(form, "PatchConditioner", Autoencoder(vq()), WIDTH, 64, model.info)
    made.save(tmp_path / "vq")
    loaded = load_model(tmp_path / "vq", "cpu", "fp32")
    assert isinstance(loaded.autoencoder.vae, VQModel)
    assert (loaded.factor, loaded.window, loaded.tile_px) == (4, 16, 64)
    assert loaded.autoencoder.fingerprint == made.autoencoder.fingerprint


@pytest.mark.parametrize(
    ("config", "mean", "std"),
    [
        ({"scaling_factor": 0.25}, 0, 4),
        ({"scaling_factor": 0.5, "shift_factor": 1.5}, 1.5, 2),
        ({"latents_mean": [1.0] * 4, "latents_std": [5.0] * 4, "scaling_factor": 1.0}, 1, 5),
    ],
)
def test_kl_latents_are_normalised_as_the_autoencoder_says(config, mean, std):
    vae = kl(**config)
    autoencoder, image = Autoencoder(vae), torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.inference_mode():
        raw = vae.encode(image).latent_dist.mode()
        assert autoencoder.encode(image) == pytest.approx((raw - mean) / std, abs=1e-5)
        assert autoencoder.decode((raw - mean) / std) == pytest.approx(vae.decode(raw).sample, abs=1e-4)


def test_the_published_size_is_that_of_the_papers():
    with init_empty_weights():
        unet = build_denoiser(PRESETS["published"], 3, 64)
        model = build_model(PRESETS["published"], "PatchConditioner", Autoencoder(vq()), 1024, 256, {})
    assert sum(p.numel() for p in unet.parameters()) == pytest.approx(401e6, abs=0.5e6)
    assert (model.window, model.factor, model.tile_px) == (64, 4, 256)
    config = unet.config
    assert (config.block_out_channels, config.cross_attention_dim) == ((192, 384, 576, 960), 512)
    assert config.attention_head_dim == 1 and config.layers_per_block == 2  # one head, two residual blocks
    schedule = model.scheduler.betas
    assert schedule[0] == pytest.approx(0.0015) and schedule[-1] == pytest.approx(0.0195) and len(schedule) == 1000


def test_the_starter_size_is_between_5_and_20_million():
    with init_empty_weights():
        unet = build_denoiser(PRESETS["starter"], 12, 32)
    assert 5e6 < sum(p.numel() for p in unet.parameters()) < 20e6


@pytest.mark.parametrize("tile_px", [60, 40])
def test_tiles_that_the_networks_cannot_halve(model, tile_px):
    with pytest.raises(InputError, match=f"tiles of {tile_px} px: .* a multiple of 16 px"):
        build_model(PRESETS["tiny"], "PatchConditioner", model.autoencoder, WIDTH, tile_px, {})


def test_weights_of_another_form_cannot_be_taken_over(model, saved):
    other = build_model(PRESETS["tiny"], "PatchConditioner", model.autoencoder, WIDTH, 64, {})
    start_from(other, saved)
    assert all(torch.equal(a, b) for a, b in zip(state(model), state(other), strict=True))
    wider = build_model(PRESETS["tiny"], "PatchConditioner", model.autoencoder, WIDTH + 1, 64, {})
    with pytest.raises(ModelError, match=r"its conditioner has another form: .*projection.weight") as raised:
        start_from(wider, saved)
    assert "\n" not in str(raised.value)


def test_another_kind_of_conditioner_begins_anew(model, saved):
    zooming = build_model(PRESETS["tiny"], "Summarizer", model.autoencoder, WIDTH, 64, {}, levels=3)
    before = {name: value.clone() for name, value in zooming.conditioner.state_dict().items()}
    start_from(zooming, saved)
    pairs = zip(model.unet.parameters(), zooming.unet.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert all(torch.equal(value, before[name]) for name, value in zooming.conditioner.state_dict().items())


@pytest.mark.parametrize(
    ("mpp", "names"), [(0.499, ["20x", "10x", "5x", "2.5x", "1.25x"]), (None, ["1x", "2x", "4x", "8x", "16x"])]
)
def test_levels_are_named_by_magnification(model, mpp, names):
    info = ModelInfo("zooming", trained_on=(TrainingSlide("a", mpp=mpp),))
    zooming = build_model(PRESETS["tiny"], "Summarizer", model.autoencoder, WIDTH, 64, info, levels=5)
    assert zooming.level_names == names and model.level_names == ["1x"]


@pytest.mark.parametrize("timestep", [0, 500, 999])
def test_the_noise_is_found_in_a_v_prediction(timestep):
    scheduler = DDPMScheduler(**NOISE_SCHEDULE, prediction_type="v_prediction")
    clean, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    when = torch.tensor([timestep])
    noisy = scheduler.add_noise(clean, noise, when)
    eps = to_eps(scheduler.get_velocity(clean, noise, when), noisy, timestep, scheduler)
    torch.testing.assert_close(eps, noise, atol=1e-5, rtol=1e-5)


def test_a_prediction_of_the_noise_is_taken_as_it_is():
    output, latents = torch.randn(2, 3, 4, 8, 8)
    assert torch.equal(to_eps(output, latents, 500, DDPMScheduler(**NOISE_SCHEDULE)), output)
