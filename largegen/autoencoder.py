"""Pictures <-> latents: a VQ or KL autoencoder of diffusers, and the normalisation of its latents."""

import hashlib
from pathlib import Path

import torch
from diffusers import AutoencoderKL, VQModel
from torch import Tensor, nn

from largegen.errors import ModelError
from largegen.networks import load_network

AUTOENCODERS = {"AutoencoderKL": AutoencoderKL, "VQModel": VQModel}


class Autoencoder:
    """An autoencoder whose latents have unit variance, whatever its own scale is."""

    def __init__(self, vae: AutoencoderKL | VQModel):
        self.vae = vae
        mean, std = latent_statistics(vae)
        self._mean, self._std = mean.to(vae.device), std.to(vae.device)

    @property
    def factor(self) -> int:
        """Pixels per latent, in each direction."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def channels(self) -> int:
        return self.vae.config.latent_channels

    @property
    def fingerprint(self) -> str:
        """Tells apart autoencoders that give different latents."""
        digest = hashlib.sha256(repr((self._mean.tolist(), self._std.tolist())).encode())
        for name, value in self.vae.state_dict().items():
            digest.update(f"{name} {value.double().sum().item():.6e} {value.double().norm().item():.6e}".encode())
        return digest.hexdigest()[:16]

    def to(self, device: torch.device, dtype: torch.dtype) -> "Autoencoder":
        # Not ModelMixin.to, which warns of layers to be kept in fp32 though there are none.
        nn.Module.to(self.vae, device=device, dtype=dtype, memory_format=torch.channels_last)
        self._mean, self._std = self._mean.to(device), self._std.to(device)
        return self

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] -> latents (B, C, H/f, W/f) float32, without sampling."""
        images = images.to(self.vae.device, self.vae.dtype, memory_format=torch.channels_last)
        encoded = self.vae.encode(images)
        raw = encoded.latents if isinstance(self.vae, VQModel) else encoded.latent_dist.mode()
        return (raw.float() - self._mean) / self._std  # raw latents => unit variance

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> pictures (B, 3, f*h, f*w) float32, about [-1, 1]."""
        raw = latents.to(self.vae.device).float() * self._std + self._mean  # unit variance => raw latents
        raw = raw.to(self.vae.dtype, memory_format=torch.channels_last)
        return self.vae.decode(raw).sample.float()


def latent_statistics(vae: AutoencoderKL | VQModel) -> tuple[Tensor, Tensor]:
    """Mean and deviation (C, 1, 1) float32 that the autoencoder's raw latents are normalised with.

    VQ latents are used as they are [method of both papers]; a KL autoencoder says its own in its configuration.
    """
    config = vae.config
    channels = config.latent_channels
    mean, std = torch.zeros(channels), torch.ones(channels)
    if not isinstance(vae, VQModel):
        if config.get("latents_mean") and config.get("latents_std"):
            mean, std = torch.tensor(config.latents_mean), torch.tensor(config.latents_std)
        else:
            mean = mean + (config.get("shift_factor") or 0.0)
            std = std / (config.get("scaling_factor") or 1.0)
    return mean.float()[:, None, None], std.float()[:, None, None]


def load_autoencoder(path: Path) -> Autoencoder:
    """Load the autoencoder of a model or run directory, or a bare one in diffusers' layout. Raises ModelError."""
    path = Path(path)
    for directory in (path / "model" / "vae", path / "vae", path):  # a run directory has a config.json of its own
        if (directory / "config.json").is_file():
            return Autoencoder(load_network(directory, AUTOENCODERS).eval().requires_grad_(False))
    raise ModelError(f"{path}: holds no autoencoder (no config.json, vae/ or model/vae/)")
