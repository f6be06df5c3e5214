"""Train an autoencoder on tiles: L1, SSIM, a little Kullback-Leibler and perhaps ST-LPIPS; nothing is downloaded."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from largegen.errors import InputError
from largegen.images.contact_sheet import contact_sheet
from largegen.models.autoencoder import ResidualAutoencoder
from largegen.models.local_autoencoder import LocalAutoencoder
from largegen.models.perceptual import load_perceptual
from largegen.models.pixels import to_images, to_network
from largegen.models.storage import save_network
from largegen.slides.slide import Slide
from largegen.training.config import AutoencoderConfig
from largegen.training.crops import CropDataset
from largegen.training.sampler import sample_rng
from largegen.training.task import Task

STAIN_PX = 8  # side of the squares whose mean colour is held to: normalisation layers let colour drift, L1 barely minds


def build_autoencoder(config: AutoencoderConfig) -> LocalAutoencoder | ResidualAutoencoder:
    """Build an autoencoder with new weights."""
    if config.local:
        return LocalAutoencoder(config.patch_px, config.channels, latent_channels=config.latent_channels)
    return ResidualAutoencoder(config.patch_px, config.channels, config.layers, config.latent_channels)


class AutoencoderTask(Task):
    """The autoencoder and the crops that it sees."""

    def __init__(self, slides: Sequence[tuple[Slide, float]], config: AutoencoderConfig, seed: int):
        super().__init__()
        factor = config.factor
        if config.crop_px % factor:
            raise InputError(f"`crop_px` {config.crop_px}: must be a multiple of the {factor} px per latent")
        if config.latent_channels > 3 * factor**2:
            raise InputError(f"`latent_channels` {config.latent_channels}: must be at most {3 * factor**2}")
        torch.manual_seed(seed)  # of the first weights, the same in every process
        self.config = config
        self.dataset = _NoisyCrops(slides, config, seed)
        self.held_out = self.dataset.validation()
        self.settings = {"kind": "autoencoder", **asdict(config), **self.dataset.describe(), "seed": seed}
        self.vae = build_autoencoder(config)
        self.vae.fit_linear(self._crops())
        # In a list it is no part of the module: checkpoints do without its weights.
        self.perceptual = [load_perceptual("vgg")] if config.perceptual else []

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss of a batch, and its parts."""
        image = batch["image"]
        posterior = self.vae.encode(image).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        latents = mean + (0.5 * logvar).exp() * batch["noise"]
        decoded = self.vae.decode(latents).sample.float()
        l1 = (decoded - image).abs().mean()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum((1, 2, 3)).mean()
        dissimilarity = 1 - ssim(decoded, image)
        stain = F.avg_pool2d(decoded - image, STAIN_PX).abs().mean()
        loss = l1 + stain + self.config.perceptual_weight * dissimilarity + self.config.kl_weight * kl
        parts = {"l1": l1, "stain": stain, "dissimilarity": dissimilarity, "kl": kl}
        for network in self.perceptual:
            parts["lpips"] = network.to(image.device)(decoded, image).float().mean()
            loss = loss + self.config.perceptual * parts["lpips"]
        return loss, {name: value.detach() for name, value in parts.items()}

    def _crops(self, count: int = 256) -> Tensor:
        """Take the first training crops, (count, 3, crop_px, crop_px)."""
        return torch.stack([self.dataset[n]["image"] for n in range(count)])

    def _reconstruct(self, images: np.ndarray) -> np.ndarray:
        device = next(self.vae.parameters()).device
        decoded = [
            to_images(self.vae.decode(self.vae.encode(batch.to(device)).latent_dist.mode()).sample)
            for batch in to_network(images).split(8)
        ]
        return np.concatenate(decoded)

    def validate(self) -> dict[str, float]:
        """Compute the PSNR of held-out crops, dB."""
        if not len(self.held_out):
            return {}
        decoded = self._reconstruct(self.held_out)
        error = (decoded.astype(np.float64) - self.held_out) ** 2
        return {"validation_psnr": -10 * math.log10(max(error.mean(), 1e-9) / 255**2)}

    def preview(self, path: Path) -> None:
        """Draw crops, and below them what the autoencoder makes of them."""
        images = self.held_out[:8]
        if not len(images):
            images = np.concatenate([to_images(self.dataset[n]["image"][None]) for n in range(8)])
        contact_sheet(np.concatenate([images, self._reconstruct(images)]), len(images), path)

    def export(self, directory: Path) -> None:
        """Save the autoencoder with the mean and deviation of each latent channel over training crops."""
        device = next(self.vae.parameters()).device
        latents = torch.cat([self.vae.encode(b.to(device)).latent_dist.mode() for b in self._crops().split(16)])
        std, mean = torch.std_mean(latents.float(), (0, 2, 3))
        self.vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
        save_network(self.vae, directory / "vae", None)


class _NoisyCrops(CropDataset):
    """Single crops, with the noise that draws their latents from the posterior."""

    def __init__(self, slides: Sequence[tuple[Slide, float]], config: AutoencoderConfig, seed: int):
        super().__init__(slides, config.crop_px, levels=config.levels, held_out=config.held_out, seed=seed)
        side = config.crop_px // config.factor
        self.noise_shape = (config.latent_channels, side, side)

    def __getitem__(self, sample: int) -> dict[str, Tensor]:
        noise = sample_rng(self.seed, 2**63 + sample)  # another stream than that of the crop
        return {
            "image": super().__getitem__(sample)["image"][0],
            "noise": torch.from_numpy(noise.standard_normal(self.noise_shape, np.float32)),
        }


def ssim(a: Tensor, b: Tensor, window_px: int = 7) -> Tensor:
    """Compute the mean structural similarity of images (Wang et al. 2004, equation 13).

    Local statistics are taken over square windows; the constants are the usual (0.01 L)^2 and (0.03 L)^2 for the range
    L = 2.

    Args:
        a: (B, C, H, W) in [-1, 1].
        b: Likewise.
        window_px: Side of the windows.

    Returns:
        A scalar, 1 where the images are equal.
    """
    c1, c2 = 0.02**2, 0.06**2
    moments = F.avg_pool2d(torch.cat([a, b, a * a, b * b, a * b]), window_px, 1)
    mean_a, mean_b, square_a, square_b, product = moments.chunk(5)
    variance_a, variance_b = square_a - mean_a**2, square_b - mean_b**2
    covariance = product - mean_a * mean_b
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return (similarity / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))).mean()
