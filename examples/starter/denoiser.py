"""The third stage: a denoiser and its conditioner at all magnifications, for one kind of image.

It is trained under the conditions that it is sampled under: half of the windows at the finest level lie between tiles,
and see the interpolated embedding of the four around them, as the moving windows of a large image do.
"""

from pathlib import Path

import torch
from encoder import TILE_PX, TileEncoder
from loop import train_for
from maps import Maps, Region, orient, shrunk, to_float
from torch import Tensor

from largegen.conditioning.interpolation import slerp
from largegen.models.autoencoder import Autoencoder
from largegen.models.model import Model

STRIDE_PX = 128  # between embedded tiles
WAYS = {"cuda": (0, 2, 5, 7)}  # orientations of the images, where the device is quick; else one
WINDOW, BATCH = 32, 32
BETWEEN = 0.5  # of the windows at the finest level lie between tiles
DROPOUT, CONDITION_NOISE = 0.1, 0.1


class Samples:
    """Latents of all regions at all levels and the embeddings of their tiles, on one device."""

    def __init__(
        self,
        regions: list[Region],
        autoencoder: Autoencoder,
        encoder: TileEncoder,
        odds: tuple[float, ...],
        device: torch.device,
    ):
        self.device, self.odds = device, torch.tensor(odds, device=device)
        latents, embeddings, levels, grids = [], [], [], []
        for region in regions:
            image = region.read().to(device)
            for way in WAYS.get(device.type, (0,)):
                laid = orient(image, way)
                embeddings.append(embed(laid, encoder).movedim(-1, 0))
                for level in range(len(odds)):
                    smaller = shrunk(laid, level)
                    smaller = smaller[:, : smaller.shape[1] // 8 * 8, : smaller.shape[2] // 8 * 8]
                    if min(smaller.shape[1:]) >= TILE_PX:
                        latents.append(encode(smaller, autoencoder).half())
                        levels.append(level)
                        grids.append(len(embeddings) - 1)
        self.latents, self.embeddings = Maps(latents), Maps(embeddings)
        self.levels, self.grids = (torch.tensor(x, device=device) for x in (levels, grids))
        self.only = [(self.levels == level).float() for level in range(len(odds))]
        self.multiples = [1] + [max(1, STRIDE_PX // 8 >> level) for level in range(1, len(odds))]

    @classmethod
    def kept(cls, path: Path, *arguments) -> "Samples":
        """The samples kept in a file from an interrupted run, or new ones."""
        if path.exists():
            return torch.load(path, weights_only=False)  # our own file
        samples = cls(*arguments)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(samples, f"{path}.new")
        Path(f"{path}.new").rename(path)
        return samples

    def draw(self, count: int, generator: torch.Generator) -> list[tuple[int, Tensor, Tensor]]:
        """(level, latents (n, C, 32, 32), grids of embeddings (n, 2^level, 2^level, D)) of `count` windows in all."""
        chosen = torch.multinomial(self.odds, count, True, generator=generator).bincount(minlength=len(self.odds))
        parts = []
        for level, n in enumerate(chosen.tolist()):
            if not n:
                continue
            if level:
                which, rows, cols = self.latents.draw(n, WINDOW, generator, self.only[level], self.multiples[level])
                grid = self._grid(which, rows, cols, level)
            else:
                between = round(n * BETWEEN)
                places = [
                    self.latents.draw(n - between, WINDOW, generator, self.only[0], STRIDE_PX // 8),
                    self.latents.draw(max(between, 1), WINDOW, generator, self.only[0])[:3],
                ]
                grids = [self._grid(*places[0], 0), self._between(*places[1], generator)]
                which, rows, cols = (torch.cat(parts)[:n] for parts in zip(*places, strict=True))
                grid = torch.cat(grids)[:n]
            parts.append((level, self.latents.squares(which, rows, cols, WINDOW).float(), grid))
        return parts

    def _grid(self, which: Tensor, rows: Tensor, cols: Tensor, level: int) -> Tensor:
        cell = STRIDE_PX // 8
        side = torch.arange(2**level, device=self.device) * (TILE_PX // STRIDE_PX)
        y = (rows * 2**level // cell)[:, None] + side
        x = (cols * 2**level // cell)[:, None] + side
        return self._look_up(self.grids[which], y[:, :, None], x[:, None, :])

    def _look_up(self, grid: Tensor, y: Tensor, x: Tensor) -> Tensor:
        """Embeddings at cells; beyond the last one that is repeated."""
        sizes = self.embeddings.sizes[grid]
        shape = (-1, *[1] * (y.ndim - 1))
        y = y.clamp(min=0).minimum(sizes[:, 0].reshape(shape) - 1)
        x = x.clamp(min=0).minimum(sizes[:, 1].reshape(shape) - 1)
        return self.embeddings.values[self.embeddings.starts[grid].reshape(shape) + y * sizes[:, 1].reshape(shape) + x]

    def _between(self, which: Tensor, rows: Tensor, cols: Tensor, generator: torch.Generator) -> Tensor:
        """The interpolated embedding of windows anywhere, in a grid of tiles that begins at one of four places."""
        cell, span = STRIDE_PX // 8, TILE_PX // STRIDE_PX
        begins = torch.randint(span, (2, len(rows)), generator=generator, device=self.device) * cell
        (y, v), (x, u) = (
            ((at - at % cell - begin) // cell, (at % cell + begin) / (cell * span))
            for at, begin in zip((rows, cols), begins, strict=True)
        )
        grid = self.grids[which]
        corner = [[self._look_up(grid, y + dy, x + dx) for dx in (0, span)] for dy in (0, span)]
        upper, lower = (slerp(left, right, u) for left, right in corner)
        return slerp(upper, lower, v)[:, None, None]


@torch.inference_mode()
def embed(image: Tensor, encoder: TileEncoder) -> Tensor:
    """(3, H, W) uint8 -> (rows, cols, DIM) of its tiles every STRIDE_PX."""
    tiles = image.unfold(1, TILE_PX, STRIDE_PX).unfold(2, TILE_PX, STRIDE_PX).movedim(0, 2)  # (rows, cols, 3, h, w)
    parts = []
    for row in tiles:
        with torch.autocast(image.device.type, torch.bfloat16):
            parts.append(torch.cat([encoder(to_float(part)) for part in row.split(32)]))
    return torch.stack(parts)


def encode(image: Tensor, autoencoder: Autoencoder) -> Tensor:
    """(3, H, W) uint8 -> normalised latents (C, H/8, W/8), in squares of 1024 px."""
    rows = [
        torch.cat([autoencoder.encode(to_float(square[None]))[0] for square in band.split(1024, 2)], 2)
        for band in image.split(1024, 1)
    ]
    return torch.cat(rows, 1)


def train_denoiser(model: Model, samples: Samples, out: Path, seconds: float, rate: float) -> Model:
    """Train the model's denoiser and conditioner on, and keep their averages."""
    device, scheduler = samples.device, model.scheduler
    unet, conditioner = model.unet.requires_grad_(True), model.conditioner.requires_grad_(True)
    weights = model.autoencoder.importance.sqrt().to(device)
    weights = weights / weights.mean()
    alphas = scheduler.alphas_cumprod.to(device)

    def loss_of(generator: torch.Generator) -> dict[str, Tensor]:
        parts = samples.draw(BATCH, generator)
        latents = torch.cat([latents for _, latents, _ in parts])
        arranged = []
        for level, _, grids in parts:
            noise = torch.randn(grids.shape, generator=generator, device=device) * grids.shape[-1] ** -0.5
            amount = CONDITION_NOISE * torch.rand(len(grids), 1, 1, 1, generator=generator, device=device)
            arranged.append(conditioner.arrange(grids + amount * noise, level))
        context = conditioner(*(torch.cat(p) for p in zip(*arranged, strict=True)))
        drop = torch.rand(len(latents), generator=generator, device=device) < DROPOUT
        context = torch.where(drop[:, None, None], conditioner.null(1), context)
        timestep = torch.randint(len(alphas), (len(latents),), generator=generator, device=device)
        noise = torch.randn(latents.shape, generator=generator, device=device)
        a = alphas[timestep][:, None, None, None]
        noisy = (a.sqrt() * latents + (1 - a).sqrt() * noise).contiguous(memory_format=torch.channels_last)
        target = a.sqrt() * noise - (1 - a).sqrt() * latents
        predicted = unet(noisy, timestep, context, return_dict=False)[0].float()
        errors = ((predicted - target).square() * weights).mean((1, 2, 3))
        fine = errors[: len(parts[0][1])].mean()
        return {"loss": errors.mean(), "finest": fine.detach()}

    trained = train_for(seconds, {"unet": unet, "conditioner": conditioner}, loss_of, out, rate=rate)
    model.unet, model.conditioner = trained["unet"], trained["conditioner"]
    return model
