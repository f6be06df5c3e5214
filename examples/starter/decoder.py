"""The last stage: the decoder again, so that textures look real although denoised latents are vaguer than an image's.

    python examples/starter/decoder.py --data DIR --run DIR --minutes 60

Windows of the training images are noised and denoised again by the models themselves. From these latents, and from
those of the images as they are, the decoder learns to make what a recognition network (VGG16 of ST-LPIPS) takes for
real: small heads on its features learn to tell decoded from real (a projected discriminator, after Sauer et al. 2021),
and the mean of each feature must be the image's. Encoder and latents stay, so denoisers and priors need no training.
"""

import argparse
import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from autoencoder import AERIAL_SHARE, CROP_PX, image_maps
from encoder import TILE_PX
from loop import train_for
from maps import Region, orient, read_all, read_manifest, shrunk, to_float
from torch import Tensor, nn

from largegen import load_model
from largegen.models.autoencoder import latent_statistics
from largegen.models.encoder import Encoder, load_encoder
from largegen.models.linear_decoder import fit_linear_decoder
from largegen.models.local_autoencoder import LocalAutoencoder
from largegen.models.model import LINEAR_DECODER, Model
from largegen.models.perceptual import load_perceptual
from largegen.models.storage import save_network
from largegen.sampling.denoise import guided
from largegen.sampling.schedulers import make_scheduler

WINDOWS, BATCH = 1680, 8  # that are denoised
LEVEL_ODDS = {"tissue": (0.6, 0.2, 0.1, 0.06, 0.04), "aerial": (0.6, 0.2, 0.12, 0.08)}
STARTS, STEPS_PER_1000, GUIDANCE = (250, 900), 8, 1.5  # timesteps from which they are
CROPS = {"cuda": 32}  # a step, of real latents, and as many of denoised ones; elsewhere:
FEW_CROPS = 4
PIXELS, COLOUR, PERCEPTUAL, TEXTURE, REALISM = 2.0, 1.0, 0.8, 0.08, 0.2  # weights of what the decoder is judged by
DOUBT = 700  # a pixel's place counts for nothing where a window is denoised from about this timestep
LAYERS, WIDTHS = (0, 1, 2, 3), (64, 128, 256, 512)  # of VGG16 that the heads look at
TEXTURE_SCALES = {2: 1.0, 3: 50.0, 4: 5000.0}  # the squared distance of tissue's features, by layer
RATE = 2e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True, help="--out of train.py; its models get the new decoder")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device, regions = torch.device(options.device), read_manifest(options.data, "train")
    images = read_all(regions)
    kinds = [kind for kind in LEVEL_ODDS if (options.run / "model" / kind).is_dir()]
    models = {kind: load_model(options.run / "model" / kind, options.device) for kind in kinds}
    encoder = load_encoder(f"local-dir:{options.run / 'model' / 'encoder'}", device=options.device)
    windows = kept_windows(options.run / "decoder" / "windows.pt", models, encoder, regions, images)
    vae = refine(models[kinds[0]].autoencoder.vae, windows, regions, images, options, device)
    for kind in kinds:
        save_network(vae, options.run / "model" / kind / "vae", torch.float16)
        decode = load_model(options.run / "model" / kind, options.device).autoencoder.decode
        own = windows["latents"][torch.tensor([k == kind for k in windows["kinds"]])][:64].float().to(device)
        fit_linear_decoder(decode, own).save(options.run / "model" / kind / LINEAR_DECODER)


def kept_windows(
    path: Path, models: dict[str, Model], encoder: Encoder, regions: list[Region], images: list[Tensor]
) -> dict:
    """Windows and what the models make of them, kept in a file."""
    if path.exists():
        return torch.load(path, weights_only=True)
    parts: dict[str, list] = {"images": [], "latents": [], "starts": [], "kinds": []}
    rng, generator = np.random.default_rng(5), torch.Generator().manual_seed(5)
    shares = {"tissue": 1 - AERIAL_SHARE, "aerial": AERIAL_SHARE}
    for kind, model in models.items():
        own = [image for region, image in zip(regions, images, strict=True) if region.kind == kind]
        for _ in range(round(WINDOWS * shares[kind] / sum(shares[k] for k in models) / BATCH)):
            level, start = int(rng.choice(len(LEVEL_ODDS[kind]), p=LEVEL_ODDS[kind])), int(rng.integers(*STARTS))
            crops = [draw_crop(own, TILE_PX << level, rng) for _ in range(BATCH)]
            window = torch.stack([shrunk(crop, level) for crop in crops])
            parts["images"].append(window)
            parts["latents"].append(denoised(model, window, embedded(crops, encoder), level, start, generator))
            parts["starts"] += [start] * BATCH
            parts["kinds"] += [kind] * BATCH
    found = {name: torch.cat(parts[name]) for name in ("images", "latents")}
    found |= {"starts": torch.tensor(parts["starts"]), "kinds": parts["kinds"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(found, f"{path}.new")
    Path(f"{path}.new").rename(path)
    return found


def draw_crop(images: list[Tensor], size: int, rng: np.random.Generator) -> Tensor:
    """(3, size, size) of one of the images that are large enough, larger ones more often."""
    images = [image for image in images if min(image.shape[1:]) >= size]
    sides = np.array([image[0].numel() ** 0.5 for image in images])
    image = images[rng.choice(len(images), p=sides / sides.sum())]
    top, left = (rng.integers(side - size + 1) for side in image.shape[1:])
    return image[:, top : top + size, left : left + size]


def embedded(crops: list[Tensor], encoder: Encoder) -> Tensor:
    """(B, side, side, D): the embeddings of the tiles of square crops."""
    tiles = [crop.unfold(1, TILE_PX, TILE_PX).unfold(2, TILE_PX, TILE_PX).movedim(0, 2) for crop in crops]
    pixels = torch.stack(tiles).flatten(0, 2).movedim(1, -1).contiguous().numpy()
    parts = [encoder.encode(pixels[n : n + 32]) for n in range(0, len(pixels), 32)]
    return torch.from_numpy(np.concatenate(parts)).unflatten(0, tuple(torch.stack(tiles).shape[:3])).float()


@torch.inference_mode()
def denoised(
    model: Model, windows: Tensor, grids: Tensor, level: int, start: int, generator: torch.Generator
) -> Tensor:
    """Latents (fp16) of windows (B, 3, 256, 256), noised up to timestep `start` and denoised under their embeddings."""
    denoise, context = guided(model.eps, model.null_context(), GUIDANCE), model.context(grids, level)
    latents = model.autoencoder.encode(to_float(windows.to(model.device)))
    noise = torch.randn(latents.shape, generator=generator).to(model.device)
    x = model.scheduler.add_noise(latents, noise, torch.tensor([start]))
    steps = max(2, round(start * STEPS_PER_1000 / 1000))
    scheduler = make_scheduler(
        "ddim", model.scheduler, steps, tuple(round(start * (1 - n / steps)) for n in range(steps))
    )
    for timestep in scheduler.timesteps:
        x = scheduler.step(denoise(x, timestep, context), timestep, x).prev_sample
    return x.half().cpu()


class Heads(nn.Module):
    """For each place of three layers of VGG16: how real it looks."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, 64, 3, stride=stride, padding=1), nn.LeakyReLU(0.2),
                nn.Conv2d(64, 64, 1), nn.LeakyReLU(0.2), nn.Conv2d(64, 1, 1),
            )
            for width, stride in zip(WIDTHS, (2, 1, 1, 1), strict=True)
        )  # fmt: skip

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return [head(layer) for head, layer in zip(self.heads, features, strict=True)]


def refine(
    vae: LocalAutoencoder, windows: dict, regions: list[Region], images: list[Tensor], options, device: torch.device
) -> LocalAutoencoder:
    """The autoencoder with a decoder trained on, for `--minutes`."""
    vae.float().to(device, memory_format=torch.channels_last).requires_grad_(False)
    for part in (vae.decoder, vae.synthesis):
        part.requires_grad_(True)
    perceptual = load_perceptual().to(device, memory_format=torch.channels_last)
    network = perceptual.net.bfloat16()
    torch.manual_seed(0)
    heads = Heads().to(device)
    maps, ways = image_maps(regions, images, device), random.Random(0)
    mean, std = (statistic.to(device) for statistic in latent_statistics(vae))
    pixels, latents, starts = (windows[name].to(device) for name in ("images", "latents", "starts"))
    latents = latents.float() * std + mean
    count, side = CROPS.get(device.type, FEW_CROPS), CROP_PX // 8
    scales: list[Tensor] = []

    def features(images: Tensor) -> list[Tensor]:
        return list(network(perceptual.scaling_layer(images).bfloat16()))

    def judged(layers: list[Tensor]) -> list[Tensor]:
        return [layers[n].float() / scale for n, scale in zip(LAYERS, scales, strict=True)]

    def denoised_crops(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        which = torch.randint(len(starts), (count,), generator=generator, device=device)
        places = torch.randint(TILE_PX // 8 - side + 1, (count, 2), generator=generator, device=device).tolist()
        cut = [
            (pixels[n, :, 8 * y : 8 * y + CROP_PX, 8 * x : 8 * x + CROP_PX], latents[n, :, y : y + side, x : x + side])
            for n, (y, x) in zip(which.tolist(), places, strict=True)
        ]
        images, own = (torch.stack(part) for part in zip(*cut, strict=True))
        return to_float(images), own, (1 - starts[which] / DOUBT).clamp(0.1, 1)

    def loss_of(generator: torch.Generator) -> dict[str, Tensor]:
        real = to_float(orient(maps.squares(*maps.draw(count, CROP_PX, generator), CROP_PX), ways.randrange(8)))
        with torch.no_grad():
            codes = vae.encode(real.contiguous(memory_format=torch.channels_last)).latent_dist.mean.float()
        codes = codes + vae.config.latent_noise * torch.randn(codes.shape, generator=generator, device=device)
        others, made, trust = denoised_crops(generator)
        image = torch.cat([real, others]).contiguous(memory_format=torch.channels_last)
        trust = torch.cat([torch.ones_like(trust), trust])
        decoded = vae.decode(torch.cat([codes, made]).contiguous(memory_format=torch.channels_last)).sample.float()
        error = decoded - image
        sharp, soft = ((F.avg_pool2d(error, px).abs().mean((1, 2, 3)) * trust).mean() for px in (1, 4))
        colour = F.avg_pool2d(error, 16).abs().mean()
        with torch.no_grad():
            wanted = features(image)
        found = features(decoded)
        if not scales:
            scales.extend(wanted[n].float().square().mean().sqrt() for n in LAYERS)
        distance = (unlikeness(perceptual, found, wanted) * trust).mean()
        texture = texture_distance(found, wanted).mean()
        fixed = {name: value.detach() for name, value in heads.named_parameters()}
        realism = -mean_of(torch.func.functional_call(heads, fixed, (judged(found),)))
        told = mean_of([F.relu(1 - score) for score in heads(judged(wanted))])
        told = told + mean_of([F.relu(1 + score) for score in heads(judged([layer.detach() for layer in found]))])
        rebuilt = PIXELS * sharp + COLOUR * (soft + colour) + PERCEPTUAL * distance + TEXTURE * texture
        parts = {"l1": sharp, "perceptual": distance, "texture": texture, "realism": realism, "told": told}
        return {"loss": rebuilt + REALISM * realism + told, **{name: part.detach() for name, part in parts.items()}}

    modules = {"vae": vae, "heads": heads}
    return train_for(options.minutes * 60, modules, loss_of, options.run / "decoder", rate=RATE)["vae"]


def mean_of(scores: list[Tensor]) -> Tensor:
    return torch.stack([score.float().mean() for score in scores]).mean()


def unlikeness(perceptual: nn.Module, found: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """ST-LPIPS (B,) of features."""
    unit = [
        [layer.float() / (layer.float().norm(dim=1, keepdim=True) + 1e-10) for layer in side]
        for side in (found, wanted)
    ]
    return sum(lin((a - b).square()).float().mean((1, 2, 3)) for lin, a, b in zip(perceptual.lins, *unit, strict=True))


def texture_distance(found: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """(B,) how far the means of features are from one another, about 1 between neighbouring crops."""
    means = [[side[n].float().mean((2, 3)) for n in TEXTURE_SCALES] for side in (found, wanted)]
    total = sum((a - b).square().sum(1) / s for a, b, s in zip(*means, TEXTURE_SCALES.values(), strict=True))
    return (1 + total).sqrt() - 1


if __name__ == "__main__":
    main()
