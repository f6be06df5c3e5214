"""The forms of the denoiser and of what conditions it, and models of them with new or given weights."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diffusers import DDPMScheduler, UNet2DConditionModel

from largegen.autoencoder import Autoencoder
from largegen.conditioning import CONDITIONERS
from largegen.errors import InputError, ModelError
from largegen.model import DENOISERS, Model, read_index
from largegen.networks import load_network
from largegen.training.samples import TIMESTEPS

log = logging.getLogger(__name__)

NOISE_SCHEDULE = {
    "num_train_timesteps": TIMESTEPS,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.0015,
    "beta_end": 0.0195,
    "clip_sample": False,
}


@dataclass(frozen=True)
class SummarizerConfig:
    """The form of the Summarizer, where that is the conditioner."""

    hidden_dim: int
    layers: int
    heads: int
    mlp_dim: int


@dataclass(frozen=True)
class DenoiserConfig:
    """The form of the denoiser and of what conditions it."""

    channels: tuple[int, ...]  # one per resolution, from the latents' own down by halves
    attention: tuple[bool, ...]  # at which of them there is (self- and cross-) attention
    layers: int  # residual blocks per resolution (one more on the way up)
    cross_attention_dim: int  # width of a context token
    summarizer: SummarizerConfig
    heads: int = 1
    norm_groups: int = 32
    prediction: str = "epsilon"  # what the network is trained to give: epsilon (the noise) or v_prediction


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
    """A U-Net that predicts the noise of (B, latent_channels, window, window) latents."""
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


def build_model(
    config: DenoiserConfig,
    conditioner: str,
    autoencoder: Autoencoder,
    width: int,
    tile_px: int,
    info: dict[str, Any],
    levels: int = 1,
) -> Model:
    """A model with new weights for embeddings of `width` numbers, tiles of `tile_px` px and so many levels.

    Raises InputError for a size of tiles that the networks cannot halve as often as they do.
    """
    divisor = autoencoder.factor * 2 ** (len(config.channels) - 1)
    if tile_px % divisor:
        raise InputError(f"tiles of {tile_px} px: this autoencoder and preset need a multiple of {divisor} px")
    unet = build_denoiser(config, autoencoder.channels, tile_px // autoencoder.factor)
    form = {"embedding_dim": width, "cross_attention_dim": config.cross_attention_dim}
    if conditioner == "Summarizer":
        form |= {**asdict(config.summarizer), "levels": levels}
    tokens = CONDITIONERS[conditioner](**form)
    return Model(autoencoder, unet, tokens, DDPMScheduler(**NOISE_SCHEDULE, prediction_type=config.prediction), info)


def start_from(model: Model, directory: Path) -> None:
    """Take over the weights of a model directory's denoiser, and of its conditioner if it is of the same kind. Raises
    ModelError where their forms differ."""
    index = read_index(directory)
    if "unet" not in index:
        raise ModelError(f"--init-from {directory}: has no denoiser")
    for name, classes in (("unet", DENOISERS), ("conditioner", CONDITIONERS)):
        own = getattr(model, name)
        if name == "conditioner" and index.get(name) != type(own).__name__:
            log.info("--init-from %s: another kind of conditioner; ours begins anew", directory)
            continue
        try:
            own.load_state_dict(load_network(directory / name, classes, index[name]).state_dict())
        except RuntimeError as error:
            reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
            raise ModelError(f"--init-from {directory}: its {name} has another form: {reason}") from error
