"""Latent diffusion's networks: from its names and configuration to diffusers' (and ours, for the conditioners).

A configuration's `target:` is looked up by its last part, never imported. `source` is named in errors.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from accelerate import init_empty_weights
from diffusers import UNet2DConditionModel, VQModel
from torch import Tensor, nn

from largegen.errors import ModelError
from largegen.models.conditioners import PatchConditioner, PatchRegionConditioner, Summarizer
from largegen.models.convert.ldm_config import Config, attention_heads
from largegen.models.safe_load import check_state
from largegen.runtime.private_api import ldm_conversion

DENOISER, AUTOENCODER, CONDITIONER = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
VQ_F4 = {  # where a checkpoint comes without its configuration
    "embed_dim": 3,
    "n_embed": 8192,
    "ddconfig": {
        "double_z": False,
        "z_channels": 3,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 128,
        "ch_mult": [1, 2, 4],
        "num_res_blocks": 2,
        "attn_resolutions": [],
        "dropout": 0.0,
    },
}
CIN256 = {
    "linear_start": 0.0015,
    "linear_end": 0.0195,
    "unet_config": {
        "params": {
            "image_size": 64,
            "in_channels": 3,
            "out_channels": 3,
            "model_channels": 192,
            "attention_resolutions": [8, 4, 2],
            "num_res_blocks": 2,
            "channel_mult": [1, 2, 3, 5],
            "num_heads": 1,
            "use_spatial_transformer": True,
            "transformer_depth": 1,
            "context_dim": 512,
        }
    },
    "first_stage_config": {"params": VQ_F4},
    "cond_stage_config": {"target": "ClassEmbedder"},
}
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

Network = TypeVar("Network", bound=nn.Module)
Weights = Mapping[str, Tensor]


def params(config: Config, section: str) -> Config:
    """Return the parameters of `unet_config`, `first_stage_config` or `cond_stage_config`.

    Raises:
        TypeError: Where the section is no mapping.
        KeyError: Where there is none.
    """
    return dict(config[section].get("params") or {})


def target(config: Config, section: str) -> str:
    """Return the last part of the class that a section names."""
    found = config.get(section)
    return str(found.get("target", "")).rpartition(".")[2] if isinstance(found, Mapping) else ""


def denoiser(config: Config, weights: Weights, source: Path) -> UNet2DConditionModel:
    """Convert a denoiser, from weights under DENOISER."""
    diffusers = ldm_conversion()
    with _conversion_errors(source, "denoiser"):
        unet_params = {"transformer_depth": 1} | dict(params(config, "unet_config"))
        config = {**config, "unet_config": {"params": unet_params}}
        form = diffusers.create_unet_diffusers_config_from_ldm({"model": {"params": config}}, weights)
        form["sample_size"] = int(unet_params["image_size"])  # of the latents
        form["attention_head_dim"] = attention_heads(unet_params, form["block_out_channels"])
        converted = diffusers.convert_ldm_unet_checkpoint(dict(weights), form)
        with init_empty_weights(include_buffers=False):
            unet = UNet2DConditionModel(**form)
    return _filled(unet, converted, source)


def autoencoder(config: Config, weights: Weights, source: Path, scale: float = 1.0) -> VQModel:
    """Convert an autoencoder, from weights under AUTOENCODER, whose latents are multiplied by `scale`."""
    diffusers = ldm_conversion()
    with _conversion_errors(source, "autoencoder"):
        form = diffusers.create_vae_diffusers_config_from_ldm({"model": {"params": config}}, weights)
        given = params(config, "first_stage_config")
        form |= {"num_vq_embeddings": given["n_embed"], "vq_embed_dim": given["embed_dim"]}
        converted = diffusers.convert_ldm_vae_checkpoint(dict(weights), form)
        converted["quantize.embedding.weight"] = weights[f"{AUTOENCODER}quantize.embedding.weight"]
        with init_empty_weights(include_buffers=False):
            vae = VQModel(**form)
    if scale != 1.0:
        vae.register_to_config(latents_scale=scale)
    return _filled(vae, converted, source)


def conditioner(config: Config, weights: Weights, source: Path) -> nn.Module | None:
    """Convert a conditioner, from weights without CONDITIONER; None for LDM's own, which takes no embeddings."""
    kind = target(config, "cond_stage_config")
    if kind in ("", "ClassEmbedder"):
        return None
    with _conversion_errors(source, "conditioner"):
        if kind == "EmbeddingViT2_5":
            return _summarizer(params(config, "cond_stage_config"), weights, source)
        if kind in ("PatchEmbedder", "SSLEmbedder"):
            return _tokens(bool(params(config, "cond_stage_config").get("normalize_ssl", False)), weights, source)
    raise ModelError(f"{source}: conditioner {kind}: not one of the published ones")


def _tokens(normalize: bool, weights: Weights, source: Path) -> PatchConditioner | PatchRegionConditioner:
    cross_attention_dim, dim = weights["patch_fc.weight"].shape
    if "region_fc.weight" in weights:
        network = PatchRegionConditioner(dim, weights["region_fc.weight"].shape[1], cross_attention_dim, normalize)
        names = {"patch_fc": "patch", "region_fc": "region"}
    else:
        network, names = PatchConditioner(dim, cross_attention_dim, normalize), {"patch_fc": "projection"}
    split = {name: name.rpartition(".") for name in weights}
    return _filled(network, {f"{names[stem]}.{kind}": weights[n] for n, (stem, _, kind) in split.items()}, source)


def _summarizer(form: Config, weights: Weights, source: Path) -> Summarizer:
    network = Summarizer(
        form["input_channels"],
        form["output_channels"],
        hidden_dim=form["hidden_channels"],
        layers=form["num_layers"],
        heads=form.get("num_heads", 8),
        mlp_dim=form["vit_mlp_dim"],
        levels=form["mag_levels"],
    )
    renamed = {}
    for name in network.state_dict():
        ours = next(prefix for prefix in SUMMARIZER_NAMES if name.startswith(prefix))
        theirs = SUMMARIZER_NAMES[ours] + name.removeprefix(ours)
        for part, other in BLOCK_NAMES.items():
            theirs = theirs.replace(f".{part}.", f".{other}.")
        if theirs in weights:
            renamed[name] = weights[theirs]
    return _filled(network, renamed, source)


def _filled(network: Network, weights: Weights, source: Path) -> Network:
    """Fill a network with weights, all of them and no others."""
    check_state(network, dict(weights), source)
    for name, value in weights.items():
        if not value.is_floating_point():
            raise ModelError(f"{source}: weight {name!r} holds {value.dtype}, not floats")
    network.load_state_dict(weights, assign=True)
    network.eval().requires_grad_(False)
    return network


@contextmanager
def _conversion_errors(source: Path, what: str) -> Iterator[None]:
    """Say in one line that weights and configuration do not belong together."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{source}: its {what} is not as its config says: {type(error).__name__} {error}") from error
