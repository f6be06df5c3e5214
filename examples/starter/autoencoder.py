"""The first stage: an autoencoder for tissue and aerial images."""

from pathlib import Path

import torch
import torch.nn.functional as F
from loop import quick, train_for
from maps import Maps, Region, orient, shrunk, to_float
from torch import Tensor

from largegen.models.autoencoder import Autoencoder, load_autoencoder
from largegen.models.local_autoencoder import LocalAutoencoder
from largegen.models.perceptual import load_perceptual

CROP_PX, CROPS, JUDGED = 128, 16, 4  # side, crops a step, and how many of them the perceptual distance sees
LEVEL_ODDS = (0.5, 0.2, 0.14, 0.1, 0.06)  # of crops at 20x, 10x, ... 1.25x
AERIAL_SHARE = 0.3  # of the crops of an image set
PERCEPTUAL, STAIN = 0.3, 0.5  # weights beside L1
KEEP = 0.2  # weight of the change of latents against a former autoencoder's: the denoiser knows those
NEW_CHANNELS, ENERGY = 16, 1e-3  # of new latents: how many, and the weight of their size


def image_maps(regions: list[Region], device: torch.device) -> Maps:
    """All regions at all levels."""
    arrays, weights = [], []
    images = [region.read().to(device) for region in regions]
    area = {
        kind: sum(i[0].numel() for i, r in zip(images, regions, strict=True) if r.kind == kind)
        for kind in ("tissue", "aerial")
    }
    share = {"tissue": 1 - AERIAL_SHARE, "aerial": AERIAL_SHARE}
    for region, image in zip(regions, images, strict=True):
        for level, odds in enumerate(LEVEL_ODDS):
            smaller = shrunk(image, level)
            if min(smaller.shape[1:]) >= CROP_PX:
                arrays.append(smaller)
                weights.append(odds * share[region.kind] / area[region.kind] * 4**level * 1e6)
    return Maps(arrays, weights)


def train_autoencoder(maps: Maps, start: Path | None, out: Path, seconds: float, device: torch.device) -> Autoencoder:
    """L1 + a perceptual distance + the colour of squares, with a little noise on the latents.

    start: a model whose latents are kept, all but, so that its denoiser can be trained on; None: new latents.
    """
    torch.manual_seed(0)
    generator = torch.Generator(device).manual_seed(1)
    pixels = to_float(maps.squares(*maps.draw(512, CROP_PX, generator), CROP_PX)).cpu()
    former = load_autoencoder(start).to(device, torch.float32).vae if start else None
    model = LocalAutoencoder(latent_channels=former.config.latent_channels if former else NEW_CHANNELS)
    if isinstance(former, LocalAutoencoder):
        model.load_state_dict(former.state_dict())
    elif former:
        model.analysis.load_state_dict(former.analysis.state_dict())
        model.fit_synthesis(pixels)
    else:
        model.fit_linear(pixels)
    model.to(device, memory_format=torch.channels_last)
    perceptual = load_perceptual().to(device, memory_format=torch.channels_last)
    encode, decode = (quick(function, device) for function in (model.encode, model.decode))

    def loss_of(generator: torch.Generator) -> dict[str, Tensor]:
        crops = maps.squares(*maps.draw(CROPS, CROP_PX, generator), CROP_PX)
        image = to_float(orient(crops, int(torch.randint(8, (), generator=generator, device=device))))
        image = image.contiguous(memory_format=torch.channels_last)
        mean = encode(image).latent_dist.mean
        noise = torch.randn(mean.shape, generator=generator, device=device)
        decoded = decode(mean + model.config.latent_noise * noise).sample.float()
        l1 = (decoded - image).abs().mean()
        stain = F.avg_pool2d(decoded - image, 8).abs().mean()
        distance = perceptual(decoded[:JUDGED], image[:JUDGED]).float().mean()
        if former:
            with torch.no_grad():
                before = former.encode(image).latent_dist.mean.float()
            latents = KEEP * (mean.float() - before).square().mean()
        else:
            latents = ENERGY * mean.float().square().mean()
        loss = l1 + STAIN * stain + PERCEPTUAL * distance + latents
        mse = (decoded.detach() - image).square().mean()
        return {
            "loss": loss,
            "l1": l1.detach(),
            "perceptual": distance.detach(),
            "latents": latents.detach(),
            "mse": mse,
        }

    trained = train_for(seconds, {"vae": model}, loss_of, out, rate=1e-3)["vae"]
    if former:
        mean, std = former.config.latents_mean, former.config.latents_std
    else:
        with torch.no_grad():
            latents = torch.cat([trained.encode(p.to(device)).latent_dist.mean for p in pixels.split(16)])
        std, mean = (x.tolist() for x in torch.std_mean(latents.float(), (0, 2, 3)))
    trained.register_to_config(latents_mean=mean, latents_std=std)
    return Autoencoder(trained)
