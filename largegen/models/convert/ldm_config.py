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
    ("unet_config", "num_heads_upsample", (None, -1)),
    ("unet_config", "conv_resample", (None, True)),
    ("unet_config", "resblock_updown", (None, False)),
    ("unet_config", "use_new_attention_order", (None, False)),
    ("first_stage_config", "remap", (None,)),
    ("first_stage_config", "colorize_nlabels", (None,)),
    ("ddconfig", "resamp_with_conv", (None, True)),
    ("ddconfig", "tanh_out", (None, False)),
    ("ddconfig", "give_pre_end", (None, False)),
    ("ddconfig", "use_linear_attn", (None, False)),
    ("ddconfig", "attn_type", (None, "vanilla", "vanilla-xformers")),
)
# Keys by section that are used or stand above, or that the outcome does not depend on: training, logging, data.
_LISTED = {
    "": """
linear_start linear_end timesteps beta_schedule cosine_s parameterization scale_factor scale_by_std unet_config
first_stage_config cond_stage_config num_timesteps_cond log_every_t first_stage_key cond_stage_key image_size channels
use_ema cond_stage_trainable track_fid x_feat_extracted monitor ckpt_path ignore_keys load_only_unet loss_type
clip_denoised l_simple_weight original_elbo_weight v_posterior use_positional_encodings learn_logvar logvar_init
concat_mode scheduler_config base_learning_rate make_it_fit ucg_training embed_dim n_embed ddconfig lossconfig
""",
    "unet_config": """
image_size in_channels out_channels model_channels num_res_blocks attention_resolutions channel_mult dropout
num_heads num_head_channels use_spatial_transformer transformer_depth context_dim use_linear_in_transformer
adm_in_channels legacy use_checkpoint use_fp16 use_bf16 spatial_transformer_attn_type
""",
    "first_stage_config": """
embed_dim n_embed ddconfig lossconfig image_key monitor ckpt_path ignore_keys batch_resize_range scheduler_config
lr_g_factor sane_index_shape use_ema ema_decay learn_logvar
""",
    "ddconfig": """
double_z z_channels resolution in_channels out_ch ch ch_mult num_res_blocks attn_resolutions dropout
""",
    "cond_stage_config": """
normalize_ssl patch_ssl_key region_ssl_key patch_embed_dim region_embed_dim feat_key mag_key input_channels
output_channels hidden_channels num_layers num_heads vit_mlp_dim mag_levels p_uncond key embed_dim n_classes
""",
}


def check_config(config: Config, source: Path) -> None:
    """Refuse what is not converted, and say which keys are not known.

    Raises:
        ModelError: Naming the first key that would change the outcome.
    """
    sections: dict[str, Config] = {name: _section(config, name) for name in _LISTED} | {"": config}
    ddconfig = sections["first_stage_config"].get("ddconfig")
    sections["ddconfig"] = ddconfig if isinstance(ddconfig, Mapping) else {}
    for section, key, harmless in UNCONVERTED:
        value = sections[section].get(key)
        if value not in harmless:
            raise ModelError(f"{source}: its config says {_named(section, key)}: {value}, which is not converted")
    known = {(section, key) for section, keys in _LISTED.items() for key in keys.split()}
    known |= {(section, key) for section, key, _ in UNCONVERTED}
    found = [(section, key) for section, params in sections.items() for key in params]
    unknown = sorted(_named(*one) for one in found if one not in known)
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
    stored, by_std = weights.get("scale_factor"), config.get("scale_by_std")
    if stored is not None and (by_std or config.get("scale_factor") is None):  # else LDM does not look at it
        return float(stored)
    if by_std:
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
    params = found.get("params") if isinstance(found, Mapping) else None
    return params if isinstance(params, Mapping) else {}


def _named(section: str, key: str) -> str:
    return f"{section}.{key}" if section else str(key)
