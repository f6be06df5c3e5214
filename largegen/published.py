"""Published checkpoints of both papers, and of latent diffusion, to model directories.

ZoomLDM: `config.yaml` + `weights.ckpt`. Large-Image-Diffusion: `configs/*-project.yaml` + `checkpoints/*.ckpt`. LDM: a
`model.ckpt` with its config. A config's `target:` is looked up in a list, never imported.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel, VQModel
from torch import Tensor, nn

from largegen import __version__
from largegen.autoencoder import Autoencoder
from largegen.conditioning import PatchConditioner, PatchRegionConditioner, Summarizer
from largegen.encoders import encoder_spec
from largegen.errors import InputError, ModelError, OutputError
from largegen.foreign import read_checkpoint, weights_of
from largegen.model import Model
from largegen.runtime import lock
from largegen.weights import check_state

log = logging.getLogger(__name__)

DENOISER, AUTOENCODER, CONDITIONER = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
EMA = "model_ema."
SCHEDULE = (  # the noise schedule's tables, which follow from its betas
    *("betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod"),
    *("log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "lvlb_weights"),
    *("posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2", "logvar"),
)
LEFT_OUT = {  # parts of a checkpoint that a model has no use for, by how their names begin
    "first_stage_model.loss.": "the autoencoder's loss and discriminator",
    "loss.": "the autoencoder's loss and discriminator",
    "cond_stage_model.embedding.": "LDM's class embedder",
    "model_ema.decay": "bookkeeping of the EMA",
    "model_ema.num_updates": "bookkeeping of the EMA",
}
# The encoder of the published models, by conditioner, width and levels.
TRAINED_WITH = {("Summarizer", 1024, 8): "uni_v1", ("Summarizer", 1024, 4): "dinov2_vitl14_reg"}
SUMMARIZER_NAMES = {  # ours: theirs
    "pad": "pad_token",
    "level.": "mag_embedding.",
    "projection.": "dim_reduce.",
    "position": "encoder.pos_embedding",
    "encoder.norm.": "encoder.ln.",
    "encoder.layers.": "encoder.layers.encoder_layer_",
    "output.": "final_proj.",
    "norm.": "layer_norm.",
}
BLOCK_NAMES = {"self_attn": "self_attention", "linear1": "mlp.0", "linear2": "mlp.3", "norm1": "ln_1", "norm2": "ln_2"}


@dataclass
class Report:
    """What became of a checkpoint."""

    source: Path
    used: int = 0  # tensors of the source that are in the model
    left_out: dict[str, list[str]] = field(default_factory=dict)  # reason -> names of tensors
    ema: bool = False  # the denoiser's weights are the averaged ones


@dataclass(frozen=True)
class Source:
    """A published checkpoint, as it was found."""

    checkpoint: Path
    config: Mapping[str, Any]  # of its `model.params`

    def part(self, name: str) -> Mapping[str, Any] | None:
        """Parameters of `unet_config`, `first_stage_config` or `cond_stage_config`."""
        section = self.config.get(name)
        return section.get("params", {}) if isinstance(section, Mapping) else None


def convert(
    path: Path,
    out: Path,
    *,
    encoder: str | None = None,
    checkpoint: str | None = None,
    raw_weights: bool = False,
    name: str = "",
    licence: str = "",
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
) -> Report:
    """Write the model directory of a published checkpoint, atomically; says what became of its tensors.

    encoder: name of the encoder that it was trained with, where that does not follow from its form. Raises InputError,
    ModelError and OutputError, and leaves nothing behind.
    """
    if out.exists() and not overwrite:
        raise OutputError(f"{out}: exists already; --overwrite replaces it")
    source = find_source(path, checkpoint)
    with lock(out):
        model, report = read_published(source, {"name": name or out.name}, raw_weights)
        form = (type(model.conditioner).__name__, model.info["embedding_dim"], model.levels)
        trained_with = encoder or TRAINED_WITH.get(form)
        if trained_with is None:
            raise InputError(f"{path}: does not say which encoder its {form[1]} numbers are of; name it with --encoder")
        spec = encoder_spec(trained_with)
        if spec.width and spec.width != form[1]:
            raise InputError(f"--encoder {trained_with}: gives {spec.width} numbers, but the model takes {form[1]}")
        model.info |= {
            "largegen_version": __version__,
            "encoder": trained_with,
            "encoder_fingerprint": None,  # the source does not say; any weights of that name are taken
            "encoder_licence": spec.licence,
            "licence": licence or spec.licence,
            "trained_on": [],
            "converted_from": source.checkpoint.name,
        }
        model.save(out, dtype)
    return report


def find_source(path: Path, checkpoint: str | None = None) -> Source:
    """Find config and weights in a folder, or beside a checkpoint file. Raises InputError where that is not clear.

    checkpoint: name of the one to take, where a folder has several.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or directory")
    folder = path if path.is_dir() else path.parent.parent if path.parent.name == "checkpoints" else path.parent
    configs = sorted([*folder.glob("*.yaml"), *folder.glob("configs/*project.yaml")])
    if not configs:
        raise InputError(f"{folder}: no config (*.yaml or configs/*-project.yaml) beside the weights")
    weights = [path]
    if path.is_dir():
        weights = sorted([*folder.glob("*.ckpt"), *folder.glob("checkpoints/*.ckpt")])
    if checkpoint is not None:
        weights = [file for file in weights if checkpoint in (file.name, file.stem)]
    if len(weights) != 1:
        names = ", ".join(file.name for file in weights) or "none"
        raise InputError(f"{path}: holds {len(weights)} checkpoints ({names}); name one with --checkpoint")
    return Source(weights[0], _read_config(configs[-1]))


def _read_config(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        return yaml.safe_load(path.read_text())["model"]["params"]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: not the config of a latent diffusion model: {error!r}") from error


def read_published(source: Source, info: dict[str, Any], raw_weights: bool = False) -> tuple[Model, Report]:
    """Build the model of a published checkpoint, every weight of which is filled from it.

    raw_weights: take the denoiser's weights as they were trained, not their EMA. Raises ModelError where a weight is
    missing or of another shape, or where the checkpoint holds something that nobody knows.
    """
    weights = weights_of(read_checkpoint(source.checkpoint), source.checkpoint)
    report = Report(source.checkpoint)
    unet_weights = {name: value for name, value in weights.items() if name.startswith(DENOISER)}
    averaged = {name: EMA + name.removeprefix("model.").replace(".", "") for name in unet_weights}
    if any(name.startswith(EMA) for name in weights) and not raw_weights:
        missing = [name for name in averaged.values() if name not in weights]
        if missing:
            raise ModelError(f"{source.checkpoint}: EMA weight {missing[0]!r} is missing; --raw-weights does without")
        unet_weights = {name: weights[ema] for name, ema in averaged.items()}
        report.ema = True
    unet = _denoiser(source, unet_weights)
    vae = _autoencoder(source, {name: value for name, value in weights.items() if name.startswith(AUTOENCODER)})
    own = {n.removeprefix(CONDITIONER): value for n, value in weights.items() if n.startswith(CONDITIONER)}
    conditioner = _conditioner(source, own)
    networks = (unet, vae, conditioner)
    _account(weights, networks, report, {*averaged, *averaged.values()})
    info = {
        **info,
        "embedding_dim": conditioner.config.embedding_dim,
        "tile_px": unet.config.sample_size * 2 ** (len(vae.config.block_out_channels) - 1),
    }
    model = Model(
        Autoencoder(vae),
        *(network.eval().requires_grad_(False) for network in (unet, conditioner)),
        _schedule(source, weights),
        info,
    )
    return model, report


def _fill(network: nn.Module, weights: Mapping[str, Tensor], source: Source) -> nn.Module:
    check_state(network, dict(weights), source.checkpoint)
    network.load_state_dict(weights, assign=True)
    return network


def _denoiser(source: Source, weights: dict[str, Tensor]) -> UNet2DConditionModel:
    from accelerate import init_empty_weights
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, create_unet_diffusers_config_from_ldm

    config = create_unet_diffusers_config_from_ldm({"model": {"params": source.config}}, weights)
    config["sample_size"] = source.part("unet_config")["image_size"]  # of the latents
    with init_empty_weights(include_buffers=False):
        unet = UNet2DConditionModel(**config)
    return _fill(unet, convert_ldm_unet_checkpoint(weights, config), source)


def _autoencoder(source: Source, weights: dict[str, Tensor]) -> VQModel:
    from accelerate import init_empty_weights
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint, create_vae_diffusers_config_from_ldm

    config = create_vae_diffusers_config_from_ldm({"model": {"params": source.config}}, weights)
    form = source.part("first_stage_config")
    config |= {"num_vq_embeddings": form["n_embed"], "vq_embed_dim": form["embed_dim"]}
    with init_empty_weights(include_buffers=False):
        vae = VQModel(**config)
    converted = convert_ldm_vae_checkpoint(weights, config)
    converted["quantize.embedding.weight"] = weights[f"{AUTOENCODER}quantize.embedding.weight"]
    return _fill(vae, converted, source)


def _conditioner(source: Source, weights: dict[str, Tensor]) -> nn.Module:
    """The conditioner that the config's `target` names; only its last part counts, and nothing is imported."""
    target = str(source.config.get("cond_stage_config", {}).get("target", "")).rpartition(".")[2]
    params = source.part("cond_stage_config") or {}
    if target == "EmbeddingViT2_5":
        return _summarizer(source, params, weights)
    if target in ("PatchEmbedder", "SSLEmbedder"):
        width = weights["patch_fc.weight"].shape
        if "region_fc.weight" in weights:
            network = PatchRegionConditioner(width[1], weights["region_fc.weight"].shape[1], width[0])
        else:
            network = PatchConditioner(width[1], width[0])
        names = {"patch_fc": "patch" if "region_fc.weight" in weights else "projection", "region_fc": "region"}
        renamed = {
            f"{names[stem]}.{kind}": w for name, w in weights.items() for stem, _, kind in [name.rpartition(".")]
        }
        return _fill(network, renamed, source)
    raise ModelError(f"{source.checkpoint}: conditioner {target or 'of no name'}: not one of the published ones")


def _summarizer(source: Source, params: Mapping[str, Any], weights: dict[str, Tensor]) -> Summarizer:
    network = Summarizer(
        params["input_channels"],
        params["output_channels"],
        hidden_dim=params["hidden_channels"],
        layers=params["num_layers"],
        heads=params.get("num_heads", 8),
        mlp_dim=params["vit_mlp_dim"],
        levels=params["mag_levels"],
    )
    renamed = {}
    for name in network.state_dict():
        ours = next(prefix for prefix in SUMMARIZER_NAMES if name.startswith(prefix))
        theirs = SUMMARIZER_NAMES[ours] + name.removeprefix(ours)
        for part, other in BLOCK_NAMES.items():
            theirs = theirs.replace(f".{part}.", f".{other}.")
        if theirs in weights:
            renamed[name] = weights[theirs]
    return _fill(network, renamed, source)


def _schedule(source: Source, weights: Mapping[str, Tensor]) -> DDPMScheduler:
    config = source.config
    scheduler = DDPMScheduler(
        num_train_timesteps=config.get("timesteps", 1000),
        beta_schedule="scaled_linear",
        beta_start=config.get("linear_start", 0.0015),
        beta_end=config.get("linear_end", 0.0195),
        clip_sample=False,
    )
    table = weights.get("alphas_cumprod")
    if table is not None and (
        table.shape != scheduler.alphas_cumprod.shape
        or not torch.allclose(table.float(), scheduler.alphas_cumprod, atol=1e-5)
    ):
        raise ModelError(f"{source.checkpoint}: its noise schedule is not the one that its config describes")
    return scheduler


def _account(
    weights: Mapping[str, Tensor], networks: tuple[nn.Module, ...], report: Report, denoisers: set[str]
) -> None:
    """Tell for each tensor of the source whether it is in the model, and if not, why. Raises ModelError for one that
    nobody knows."""
    kept = {value.data_ptr() for network in networks for value in network.state_dict().values()}
    reasons = {**LEFT_OUT, **dict.fromkeys(SCHEDULE, "tables that follow from the noise schedule")}
    for name, value in weights.items():
        if value.data_ptr() in kept:
            report.used += 1
            continue
        reason = next((why for start, why in reasons.items() if name.startswith(start)), None)
        if name in denoisers:
            reason = "the denoiser's weights before averaging" if report.ema else "the denoiser's averaged weights"
        if reason is None:
            raise ModelError(f"{report.source}: weight {name!r} has no place in the model")
        report.left_out.setdefault(reason, []).append(name)
