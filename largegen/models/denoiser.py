"""The denoiser: presets of the U-Net and its conditioner, the noise schedule, and the noise an output stands for."""

from dataclasses import dataclass

from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor

DENOISERS = {"UNet2DConditionModel": UNet2DConditionModel}
TIMESTEPS = 1000
PREDICTIONS = ("epsilon", "v_prediction", "sample")  # the noise, v, or the clean latents
NOISE_SCHEDULE = {
    "num_train_timesteps": TIMESTEPS,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.0015,
    "beta_end": 0.0195,
    "clip_sample": False,
}


@dataclass(frozen=True)
class SummarizerConfig:
    """The architecture of the Summarizer, where that is the conditioner."""

    hidden_dim: int
    layers: int
    heads: int
    mlp_dim: int


@dataclass(frozen=True)
class DenoiserConfig:
    """The architecture of the denoiser and of what conditions it."""

    channels: tuple[int, ...]  # one per resolution, from the latents' own down by halves
    attention: tuple[bool, ...]  # at which of them there is (self- and cross-) attention
    layers: int  # residual blocks per resolution (one more on the way up)
    cross_attention_dim: int  # of a context token
    summarizer: SummarizerConfig
    heads: int = 1
    norm_groups: int = 32
    prediction: str = "epsilon"  # what the network is trained to give: a value of PREDICTIONS


PRESETS = {
    "published": DenoiserConfig(
        (192, 384, 576, 960), (False, True, True, True), 2, 512, SummarizerConfig(512, 12, 8, 2048)
    ),
    "starter": DenoiserConfig(
        (96, 128, 192), (False, False, True), 1, 256, SummarizerConfig(256, 2, 8, 512), 4, 16, "v_prediction"
    ),
    "tiny": DenoiserConfig((16, 32), (False, True), 1, 32, SummarizerConfig(32, 1, 4, 64), norm_groups=8),
}


def build_denoiser(config: DenoiserConfig, latent_channels: int, window: int) -> UNet2DConditionModel:
    """Make a U-Net that predicts the noise of (B, latent_channels, window, window) latents."""
    down = ["CrossAttnDownBlock2D" if attention else "DownBlock2D" for attention in config.attention]
    return UNet2DConditionModel(
        sample_size=window,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=config.channels,
        down_block_types=tuple(down),
        up_block_types=tuple(name.replace("Down", "Up") for name in reversed(down)),
        layers_per_block=config.layers,
        cross_attention_dim=config.cross_attention_dim,
        attention_head_dim=config.heads,  # diffusers' name for the number of heads
        norm_num_groups=config.norm_groups,
    )


def to_eps(output: Tensor, latents: Tensor, timestep: Tensor | int, scheduler: DDPMScheduler) -> Tensor:
    """Turn a denoiser's output into the noise it stands for.

    That is itself, or sqrt(a) v + sqrt(1 - a) x_t of a v-prediction, or (x_t - sqrt(a) x0) / sqrt(1 - a) where it gives
    the clean latents x0. Here a is the schedule's cumulative alpha at the timestep (Salimans & Ho 2022, app. D).

    Args:
        output: (B, C, h, w).
        latents: x_t, (B, C, h, w).
        timestep: 0-based; one for all, or (B,).
        scheduler: The training noise schedule, and what the network predicts.

    Returns:
        (B, C, h, w) float32.
    """
    if scheduler.config.prediction_type == "epsilon":
        return output.float()
    if isinstance(timestep, Tensor) and timestep.ndim:
        a = scheduler.alphas_cumprod.to(latents.device)[timestep].float().reshape(-1, 1, 1, 1)
    else:
        a = scheduler.alphas_cumprod[timestep].float()  # one number on the CPU, which is copied to no device
    if scheduler.config.prediction_type == "sample":
        return (latents.float() - a.sqrt() * output.float()) / (1 - a).sqrt()
    return a.sqrt() * output.float() + (1 - a).sqrt() * latents.float()
