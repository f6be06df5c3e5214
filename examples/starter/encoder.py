"""The second stage: a tile encoder without labels, for what a denoiser wants to know of a tile.

From the embedding a small decoder has to tell the tile's layout (its image at 8 x 8 px) and its texture (the energy of
each latent channel in 4 x 4 parts): regression, so it learns from few samples. Beside it, InfoNCE between a tile and
itself moved a little, against other tiles of the same slide. Stain and scale are never changed, so they stay in.
"""

import random
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from loop import train_for
from maps import Maps, orient, to_float
from torch import Tensor, nn

from largegen.models.autoencoder import Autoencoder
from largegen.models.encoder_registry import IMAGENET_MEAN, IMAGENET_STD
from largegen.models.storage import save_weights
from largegen.runtime.files import write_json
from largegen.version import __version__

ARCHITECTURE, DIM, TILE_PX, INPUT_PX = "resnet10t", 256, 256, 128
TILES, FEW_TILES, OF_ONE_IMAGE, SHIFT_PX = {"cuda": 192}, 48, 8, 32  # a step; elsewhere; of them from one image
TEMPERATURE, CONTRAST = 0.1, 0.2


class TileEncoder(nn.Module):
    """Tiles (B, 3, 256, 256) in [-1, 1] -> unit embeddings (B, DIM)."""

    def __init__(self):
        super().__init__()
        self.network = timm.create_model(ARCHITECTURE, num_classes=DIM)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    def forward(self, tiles: Tensor) -> Tensor:
        return self.look(tiles)[0]

    def look(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """The embeddings, and what the third stage makes of 8 x 8 parts of each tile, (B, F, 8, 8)."""
        small = F.interpolate((tiles + 1) / 2, (INPUT_PX, INPUT_PX), mode="bicubic", antialias=True).clamp(0, 1)
        inputs = ((small - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        last, (third,) = self.network.forward_intermediates(inputs, indices=[3])
        return F.normalize(self.network.forward_head(last).float(), dim=-1), third


def facts(tiles: Tensor, autoencoder: Autoencoder) -> Tensor:
    """What a denoiser wants to know of tiles (B, 3, 256, 256): (B, 3*8*8 + C*4*4), each number about 1 in size."""
    layout = 2.5 * F.avg_pool2d(tiles, TILE_PX // 8).flatten(1)
    latents = autoencoder.encode(tiles)
    local = latents - F.avg_pool2d(latents, 3, 1, 1)
    texture = (F.avg_pool2d(local.square(), latents.shape[-1] // 4) + 1e-3).log().flatten(1)
    return torch.cat([layout, texture], 1)


def train_encoder(maps: Maps, autoencoder: Autoencoder, out: Path, seconds: float, device: torch.device) -> TileEncoder:
    """Train it on the images of `maps`."""
    torch.manual_seed(0)
    encoder = TileEncoder().to(device, memory_format=torch.channels_last)
    known = 3 * 64 + autoencoder.channels * 16
    tiles, rng = TILES.get(device.type, FEW_TILES), random.Random(0)
    decoder = nn.Sequential(nn.Linear(DIM, 768), nn.GELU(), nn.Linear(768, known)).to(device)
    generator = torch.Generator(device).manual_seed(2)
    with torch.no_grad():
        sample = to_float(maps.squares(*maps.draw(128, TILE_PX, generator), TILE_PX))
        centre = torch.cat([facts(part, autoencoder) for part in sample.split(16)]).mean(0)

    def loss_of(generator: torch.Generator) -> dict[str, Tensor]:
        wide = TILE_PX + SHIFT_PX
        which = maps.draw(tiles // OF_ONE_IMAGE, wide, generator)[0]
        which = which.repeat_interleave(OF_ONE_IMAGE)  # several tiles of one image, anywhere in it
        room = maps.sizes[which] - wide + 1
        at = (torch.rand(tiles, 2, generator=generator, device=device) * room).long().minimum(room - 1)
        squares = to_float(orient(maps.squares(which, *at.unbind(1), wide), rng.randrange(8)))
        y, x = rng.randrange(SHIFT_PX), rng.randrange(SHIFT_PX)
        first, second = squares[..., :TILE_PX, :TILE_PX], squares[..., y : y + TILE_PX, x : x + TILE_PX]
        embedded = encoder(torch.cat([first, second]))
        a, b = embedded.chunk(2)
        similarity = a @ b.T / TEMPERATURE
        own = torch.arange(tiles, device=device)
        contrast = (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)) / 2
        with torch.no_grad():
            target = facts(first, autoencoder).float() - centre
        regression = (decoder(a * DIM**0.5).float() - target).square().mean()
        hits = (similarity.argmax(1) == own).float().mean()
        return {"loss": regression + CONTRAST * contrast, "regression": regression, "contrast": contrast, "hits": hits}

    return train_for(seconds, {"encoder": encoder, "decoder": decoder}, loss_of, out, rate=1e-3)["encoder"]


def export_encoder(encoder: TileEncoder, directory: Path, subjects: list[str]) -> None:
    """Write it as a `local-dir:` encoder, in fp16."""
    directory.mkdir(parents=True, exist_ok=True)
    save_weights(encoder.network, directory / "model.safetensors", torch.float16)
    config = {"format": "largegen-encoder", "version": __version__, "architecture": ARCHITECTURE, "width": DIM}
    config |= {"input_px": INPUT_PX, "mean": IMAGENET_MEAN, "std": IMAGENET_STD, "licence": "Apache-2.0"}
    write_json(directory / "config.json", {**config, "timm_kwargs": {}, "trained_on": subjects})
