"""The first stage: an autoencoder for tissue and aerial images."""

import random

import torch
import torch.nn.functional as F
from loop import train_for
from maps import Maps, Region, orient, shrunk, to_float
from torch import Tensor

from largegen.models.autoencoder import Autoencoder
from largegen.models.local_autoencoder import LocalAutoencoder
from largegen.models.perceptual import load_perceptual

CROP_PX = 128
CROPS = {"cuda": (64, 32)}  # a step, and how many of them the perceptual distance sees; elsewhere:
FEW_CROPS = (16, 4)
FORM = {
    "block_out_channels": (64, 112, 160),
    "encoder_blocks": (1, 2, 2),
    "decoder_blocks": (3, 3, 3),
    "latent_channels": 16,
    "latent_noise": 0.1,
}
LEVEL_ODDS = (0.5, 0.2, 0.14, 0.1, 0.06)  # of crops at 20x, 10x, ... 1.25x
AERIAL_SHARE = 0.4  # of the crops
PERCEPTUAL, STAIN = 0.3, 0.5  # weights beside L1
ENERGY = 2e-3  # weight of the latents' size: beside their noise it says how much they may hold
COARSE = 0.25  # weight of decoding averaged latents to the averaged image: latents are smooth then, and easier to learn
RATE = 1e-3


def image_maps(regions: list[Region], images: list[Tensor], device: torch.device) -> Maps:
    """All images at all levels."""
    arrays, weights = [], []
    area = {
        kind: sum(i[0].numel() for i, r in zip(images, regions, strict=True) if r.kind == kind)
        for kind in ("tissue", "aerial")
    }
    share = {"tissue": 1 - AERIAL_SHARE, "aerial": AERIAL_SHARE}
    for region, image in zip(regions, images, strict=True):
        for level, odds in enumerate(LEVEL_ODDS):
            smaller = shrunk(image.to(device), level)
            if min(smaller.shape[1:]) >= CROP_PX:
                arrays.append(smaller)
                weights.append(odds * share[region.kind] / area[region.kind] * 4**level * 1e6)
    return Maps(arrays, weights)


def train_autoencoder(maps: Maps, out, seconds: float, device: torch.device) -> Autoencoder:
    """L1 + a perceptual distance + the colour of squares, with noise on the latents."""
    torch.manual_seed(0)
    generator = torch.Generator(device).manual_seed(1)
    pixels = to_float(maps.squares(*maps.draw(512, CROP_PX, generator), CROP_PX)).cpu()
    model = LocalAutoencoder(**FORM)
    model.fit_linear(pixels)
    model.to(device, memory_format=torch.channels_last)
    perceptual = load_perceptual().to(device, memory_format=torch.channels_last)
    crops, judged = CROPS.get(device.type, FEW_CROPS)
    ways = random.Random(0)

    def loss_of(generator: torch.Generator) -> dict[str, Tensor]:
        squares = maps.squares(*maps.draw(crops, CROP_PX, generator), CROP_PX)
        image = to_float(orient(squares, ways.randrange(8))).contiguous(memory_format=torch.channels_last)
        mean = model.encode(image).latent_dist.mean
        noise = model.config.latent_noise * torch.randn(mean.shape, generator=generator, device=device)
        decoded = model.decode(mean + noise).sample.float()
        error = decoded - image
        l1, stain = error.abs().mean(), F.avg_pool2d(error, 8).abs().mean()
        distance = perceptual(decoded[:judged], image[:judged]).float().mean()
        few = slice(-crops // 4, None)
        coarse = model.decode(F.avg_pool2d(mean[few] + noise[few], 2)).sample.float()
        coarse = (coarse - F.avg_pool2d(image[few], 2)).abs().mean()
        size = mean.float().square().mean()
        loss = l1 + STAIN * stain + PERCEPTUAL * distance + COARSE * coarse + ENERGY * size
        parts = {"l1": l1, "perceptual": distance, "coarse": coarse, "size": size, "mse": error.square().mean()}
        return {"loss": loss, **{name: value.detach() for name, value in parts.items()}}

    trained = train_for(seconds, {"vae": model}, loss_of, out, rate=RATE)["vae"]
    with torch.no_grad():
        latents = torch.cat([trained.encode(p.to(device)).latent_dist.mean for p in pixels.split(16)])
    std, mean = (x.tolist() for x in torch.std_mean(latents.float(), (0, 2, 3)))
    trained.register_to_config(latents_mean=mean, latents_std=std)
    return Autoencoder(trained)
