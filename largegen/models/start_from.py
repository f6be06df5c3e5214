"""A model to train that starts from the weights of another."""

import logging
from pathlib import Path

import torch
from diffusers import DDPMScheduler
from torch import nn

from largegen.errors import ModelError
from largegen.models.autoencoder import load_autoencoder
from largegen.models.conditioners import CONDITIONERS
from largegen.models.denoiser import DENOISERS
from largegen.models.directory import load_scheduler, read_index
from largegen.models.model import Model
from largegen.models.storage import load_network

log = logging.getLogger(__name__)

FREE_OF_WEIGHTS = ("sample_size", "dropout", "normalize")  # what networks may differ in and share their weights


def start_from(model: Model, directory: Path) -> None:
    """Take over the weights of a model directory's denoiser, and its conditioner if it is of the same kind.

    The noise schedule and what the denoiser predicts are then those of the directory, as the weights are for them.

    Raises:
        ModelError: Where their architectures differ.
    """
    parts = read_index(directory).parts
    if "unet" not in parts:
        raise ModelError(f"`init_from` {directory}: has no denoiser")
    unet = load_network(directory / "unet", DENOISERS, parts["unet"])
    _take_weights(model.unet, unet, f"`init_from` {directory}: its unet has another form")
    _take_schedule(model, load_scheduler(directory), directory)
    if parts.get("conditioner") == type(model.conditioner).__name__:
        conditioner = load_network(directory / "conditioner", CONDITIONERS, parts["conditioner"])
        model.conditioner.register_to_config(**{k: v for k, v in conditioner.config.items() if k == "normalize"})
        _take_weights(model.conditioner, conditioner, f"`init_from` {directory}: its conditioner has another form")
    else:
        log.info("`init_from` %s: another kind of conditioner; ours starts over", directory)
    if "vae" in parts and load_autoencoder(directory).fingerprint != model.autoencoder.fingerprint:
        log.warning("`init_from` %s: its denoiser knows the latents of another autoencoder than this `vae`", directory)


def _take_weights(own: nn.Module, other: nn.Module, what: str) -> None:
    """Load another network's weights, where it computes with them what ours would."""
    try:
        own.load_state_dict(other.state_dict())
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise ModelError(f"{what}: {reason}") from error
    for key, value in own.config.items():
        theirs = other.config.get(key)
        if key in FREE_OF_WEIGHTS or key.startswith("_") or _plain(theirs) == _plain(value):
            continue
        raise ModelError(f"{what}: {key} {theirs}, not {value}")


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _take_schedule(model: Model, scheduler: DDPMScheduler, directory: Path) -> None:
    own = model.scheduler
    if scheduler.config.num_train_timesteps != own.config.num_train_timesteps:
        steps = scheduler.config.num_train_timesteps
        raise ModelError(f"`init_from` {directory}: has {steps} steps of noise, not {own.config.num_train_timesteps}")
    if scheduler.config.prediction_type != own.config.prediction_type:
        kinds = scheduler.config.prediction_type, own.config.prediction_type
        log.warning("`init_from` %s: its denoiser predicts %s, not %s; going on with that", directory, *kinds)
    if not torch.allclose(scheduler.alphas_cumprod, own.alphas_cumprod):
        log.warning("`init_from` %s: its noise schedule is another one; going on with that", directory)
    model.scheduler = scheduler
