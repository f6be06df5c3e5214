"""What a configuration of latent diffusion says beside the shapes of weights: used, refused or named."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from largegen.errors import ModelError

log = logging.getLogger(__name__)

Config = Mapping[str, Any]  # of a checkpoint's `model.params`

PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}  # LDM's names: diffusers'
BETAS = {"linear": "scaled_linear", "sqrt_linear": "linear", "cosine": "squaredcos_cap_v2"}  # likewise
COSINE_S = 0.008  # that of diffusers' cosine schedule
LDM_SCHEDULE = {"linear_start": 1e-4, "linear_end": 2e-2, "timesteps": 1000, "beta_schedule": "linear"}  # its defaults

# What changes the outcome and is not converted: section, key, and the values at which it changes nothing.
UNCONVERTED: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
    ("", "given_betas", (None,)),
    ("", "conditioning_key", (None, "crossattn")),
    ("", "cond_stage_forward", (None,)),
    ("", "rescale_betas_zero_snr", (None, False)),
    ("", "split_input_params", (None,)),
    ("unet_config", "use_scale_shift_norm", (None, False)),
    ("unet_config", "disable_self_attentions", (None, False)),
    ("unet_config", "disable_middle_self_attn", (None, False)),
    ("unet_config", "num_attention_blocks", (None,)),
    ("unet_config", "n_embed", (None,)),
    ("unet_config", "num_classes", (None,)),
    ("unet_config", "dims", (None, 2)),
    ("first_stage_config", "remap", (None,)),
    ("first_stage_config", "colorize_nlabels", (None,)),
    ("ddconfig", "tanh_out", (None, False)),
    ("ddconfig", "give_pre_end", (None, False)),
    ("ddconfig", "use_linear_attn", (None, False)),
    ("ddconfig", "attn_type", (None, "vanilla", "vanilla-xformers")),
)
# Keys of `model.params` that are used, or that the outcome does not depend on: training, logging, where data come from.
_LISTED = """
linear_start linear_end timesteps beta_schedule cosine_s parameterization scale_factor scale_by_std unet_config
first_stage_config cond_stage_config given_betas conditioning_key cond_stage_forward rescale_betas_zero_snr
split_input_params num_timesteps_cond log_every_t first_stage_key cond_stage_key image_size channels use_ema
cond_stage_trainable track_fid x_feat_extracted monitor ckpt_path ignore_keys load_only_unet loss_type clip_denoised
l_simple_weight original_elbo_weight v_posterior use_positional_encodings learn_logvar logvar_init concat_mode
scheduler_config base_learning_rate make_it_fit ucg_training embed_dim n_embed ddconfig lossconfig
"""
KNOWN = frozenset(_LISTED.split())


def check_config(config: Config, source: Path) -> None:
    """Refuse what is not converted, and say which keys are not known.

    Raises:
        ModelError: Naming the first key that would change the outcome.
    """
    ddconfig = _section(config, "first_stage_config").get("ddconfig") or {}
    for section, key, harmless in UNCONVERTED:
        params = config if not section else ddconfig if section == "ddconfig" else _section(config, section)
        value = params.get(key)
        if value not in harmless:
            where = f"{section}." if section else ""
            raise ModelError(f"{source}: its config says {where}{key}: {value}, which is not converted")
    unknown = sorted(str(key) for key in config.keys() - KNOWN)
    if unknown:
        log.warning("%s: its config says %s, which is not known here and not heeded", source, ", ".join(unknown))


def schedule(config: Config, weights: Mapping[str, Tensor], source: Path) -> DDPMScheduler:
    """Convert the noise schedule, and what the denoiser predicts.

    Raises:
        ModelError: Where it is not one of diffusers', or the checkpoint's own table is another one.
    """
    said: dict[str, Any] = LDM_SCHEDULE | {name: config[name] for name in LDM_SCHEDULE if config.get(name) is not None}
    prediction = config.get("parameterization", "eps")
    if prediction not in PREDICTIONS:
        raise ModelError(f"{source}: its denoiser predicts {prediction}, none of {', '.join(PREDICTIONS)}")
    kind, cosine_s = said["beta_schedule"], config.get("cosine_s", COSINE_S)
    if kind not in BETAS or (kind == "cosine" and cosine_s != COSINE_S):
        raise ModelError(f"{source}: its noise schedule is {kind}, which diffusers has not; no model of ours")
    try:
        scheduler = DDPMScheduler(
            num_train_timesteps=int(said["timesteps"]),
            beta_start=float(said["linear_start"]),
            beta_end=float(said["linear_end"]),
            beta_schedule=BETAS[kind],
            prediction_type=PREDICTIONS[prediction],
            clip_sample=False,
        )
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{source}: its noise schedule is not as its config says: {error}") from error
    ours, theirs = scheduler.alphas_cumprod, weights.get("alphas_cumprod")
    if theirs is None:
        return scheduler
    tolerance = max(1e-5, torch.finfo(theirs.dtype).eps)  # tables may be stored in half precision
    if theirs.shape != ours.shape or not torch.allclose(theirs.float(), ours, atol=tolerance):
        raise ModelError(f"{source}: its noise schedule is not the one that its config describes")
    return scheduler


def latents_scale(config: Config, weights: Mapping[str, Tensor], source: Path) -> float:
    """Return what the autoencoder's latents are multiplied by before they are diffused.

    Raises:
        ModelError: Where it was measured on the data, and the checkpoint does not hold it.
    """
    stored = weights.get("scale_factor")
    if stored is not None:
        return float(stored)
    if config.get("scale_by_std"):
        raise ModelError(f"{source}: its latents are scaled (scale_by_std), but its scale_factor is missing")
    return float(config.get("scale_factor") or 1.0)


def attention_heads(unet: Config, channels: list[int]) -> list[int] | int:
    """Return the number of heads, at each resolution where they are of a fixed width (num_head_channels)."""
    width = unet.get("num_head_channels", -1)
    if width in (None, -1):
        return int(unet["num_heads"])
    return [count // width for count in channels]


def _section(config: Config, name: str) -> Config:
    found = config.get(name)
    return dict(found.get("params") or {}) if isinstance(found, Mapping) else {}
