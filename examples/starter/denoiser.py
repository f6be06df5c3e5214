"""The third stage: a denoiser and its conditioner at all magnifications, for one kind of image.

It is trained under the conditions that it is sampled under: half of the windows at the finest level lie between tiles,
and see the interpolated embedding of the four around them, as the moving windows of a large image do. Its innermost
features of noisy windows are drawn towards what the encoder sees in the clean ones (REPA, Yu et al. 2025).
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from encoder import TILE_PX, TileEncoder
from loop import train_for
from maps import Maps, orient, recoloured, shrunk, to_float
from torch import Tensor, nn

from largegen.conditioning.interpolation import slerp
from largegen.models.autoencoder import Autoencoder
from largegen.models.model import Model

STRIDE_PX = 128  # between embedded tiles
WAYS = {"cuda": 8}  # orientations of the images, every second one recoloured, where the device is quick; else one
WINDOW = 32
BATCH, SMALL_BATCH = {"cuda": 256}, 32  # elsewhere the small one
BETWEEN = 0.5  # of the windows at the finest level lie between tiles
DROPOUT, CONDITION_NOISE = 0.1, 0.1
ALIGNED = 0.5  # weight of the likeness to the encoder's features, of windows that are tiles
MIDDLE = 0.5  # of the timesteps are drawn from a bell around the middle, the others evenly


class Samples:
    """Latents of all images at all levels and the embeddings of their tiles, on one device."""

    def __init__(
        self,
        images: list[Tensor],
        autoencoder: Autoencoder,
        encoder: TileEncoder,
        odds: tuple[float, ...],
        device: torch.device,
    ):
        self.device = device
        latents, embeddings, levels, grids = [], [], [], []
        features, plain, rng = [], [], torch.Generator().manual_seed(0)
        for number, image in enumerate(images):
            for way in range(WAYS.get(device.type, 1)):
                laid = orient(image.to(device), way)
                changed = device.type in WAYS and (number + way) % 2 == 1
                laid = recoloured(laid, rng) if changed else laid
                tiles, inner = embed(laid, encoder)
                embeddings.append(tiles.movedim(-1, 0))
                features.append(inner)
                if not changed:
                    plain.append(tiles.flatten(0, 1).cpu())
                for level in range(len(odds)):
                    smaller = shrunk(laid, level)
                    smaller = smaller[:, : smaller.shape[1] // 8 * 8, : smaller.shape[2] // 8 * 8]
                    if min(smaller.shape[1:]) >= TILE_PX:
                        latents.append(autoencoder.encode(to_float(smaller[None]))[0].half())
                        levels.append(level)
                        grids.append(len(embeddings) - 1)
        self.latents, self.embeddings = Maps(latents), Maps(embeddings)
        self.features = torch.cat(features)  # (N, F, 8, 8) half: what the encoder sees in parts of each tile
        self.plain = torch.cat(plain)  # (N, DIM): those of images that are not recoloured
        self.levels, self.grids = (torch.tensor(x, device=device) for x in (levels, grids))
        self.only = [(self.levels == level).float() for level in range(len(odds))]
        self.odds = [odd if level in levels else 0 for level, odd in enumerate(odds)]  # none where images are too small
        self.multiples = [1] + [max(1, STRIDE_PX // 8 >> level) for level in range(1, len(odds))]

    @classmethod
    def kept(cls, path: Path, *arguments) -> "Samples":
        """The samples kept in a file from an interrupted run, or new ones; a GPU makes them anew, which is quicker."""
        if path.exists():
            return torch.load(path, weights_only=False)  # our own file
        samples = cls(*arguments)
        if samples.device.type in WAYS:
            return samples
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(samples, f"{path}.new")
        Path(f"{path}.new").rename(path)
        return samples

    def draw(self, count: int, generator: torch.Generator) -> tuple[list[tuple[int, Tensor, Tensor]], Tensor]:
        """(level, latents (n, C, 32, 32), grids of embeddings (n, 2^level, 2^level, D)) of `count` windows in all.

        The first windows lie on tiles; last come these tiles' features (m, F, 8, 8).
        """
        counts = [max(1, round(count * odds)) if odds else 0 for odds in self.odds[1:]]
        parts = []
        for level, n in enumerate([count - sum(counts), *counts]):
            if not n:
                continue
            if level:
                which, rows, cols = self.latents.draw(n, WINDOW, generator, self.only[level], self.multiples[level])
                grid = self._grid(which, rows, cols, level)
            else:
                between = round(n * BETWEEN)
                places = [
                    self.latents.draw(n - between, WINDOW, generator, self.only[0], STRIDE_PX // 8),
                    self.latents.draw(between, WINDOW, generator, self.only[0]),
                ]
                grid = torch.cat([self._grid(*places[0], 0), self._between(*places[1], generator)])
                features = self.features[self._cells(*places[0], 0).flatten()].float()
                which, rows, cols = (torch.cat(parts) for parts in zip(*places, strict=True))
            parts.append((level, self.latents.squares(which, rows, cols, WINDOW).float(), grid))
        return parts, features

    def _grid(self, which: Tensor, rows: Tensor, cols: Tensor, level: int) -> Tensor:
        return self.embeddings.values[self._cells(which, rows, cols, level)]

    def _cells(self, which: Tensor, rows: Tensor, cols: Tensor, level: int) -> Tensor:
        cell = STRIDE_PX // 8
        side = torch.arange(2**level, device=self.device) * (TILE_PX // STRIDE_PX)
        y = (rows * 2**level // cell)[:, None] + side
        x = (cols * 2**level // cell)[:, None] + side
        return self._places(self.grids[which], y[:, :, None], x[:, None, :])

    def _places(self, grid: Tensor, y: Tensor, x: Tensor) -> Tensor:
        """Where the embeddings of cells are; beyond the last one that is repeated."""
        sizes = self.embeddings.sizes[grid]
        shape = (-1, *[1] * (y.ndim - 1))
        y = y.clamp(min=0).minimum(sizes[:, 0].reshape(shape) - 1)
        x = x.clamp(min=0).minimum(sizes[:, 1].reshape(shape) - 1)
        return self.embeddings.starts[grid].reshape(shape) + y * sizes[:, 1].reshape(shape) + x

    def _between(self, which: Tensor, rows: Tensor, cols: Tensor, generator: torch.Generator) -> Tensor:
        """The interpolated embedding of windows anywhere, in a grid of tiles that begins at one of four places."""
        cell, span = STRIDE_PX // 8, TILE_PX // STRIDE_PX
        begins = torch.randint(span, (2, len(rows)), generator=generator, device=self.device) * cell
        (y, v), (x, u) = (
            ((at - at % cell - begin) // cell, (at % cell + begin) / (cell * span))
            for at, begin in zip((rows, cols), begins, strict=True)
        )
        grid = self.grids[which]
        values = self.embeddings.values
        corner = [[values[self._places(grid, y + dy, x + dx)] for dx in (0, span)] for dy in (0, span)]
        upper, lower = (slerp(left, right, u) for left, right in corner)
        return slerp(upper, lower, v)[:, None, None]


@torch.no_grad()
def embed(image: Tensor, encoder: TileEncoder) -> tuple[Tensor, Tensor]:
    """(3, H, W) uint8 -> of tiles every STRIDE_PX: embeddings (rows, cols, DIM), features (rows * cols, F, 8, 8)."""
    tiles = image.unfold(1, TILE_PX, STRIDE_PX).unfold(2, TILE_PX, STRIDE_PX).movedim(0, 2)  # (rows, cols, 3, h, w)
    rows, cols = tiles.shape[:2]
    several = max(1, 192 // cols) if image.device.type == "cuda" else 1  # rows of tiles at once
    with torch.autocast(image.device.type, torch.bfloat16):
        parts = [encoder.look(to_float(part.flatten(0, 1))) for part in tiles.split(several)]
    embeddings, features = (torch.cat(found) for found in zip(*parts, strict=True))
    return embeddings.unflatten(0, (rows, cols)), features.half()


class Watched(nn.Module):
    """A denoiser that also gives what its innermost block makes: (B, C, h, w) -> that, and (B, F, h', w')."""

    def __init__(self, unet: nn.Module):
        super().__init__()
        self.unet, self._inner = unet, {}
        unet.mid_block.register_forward_hook(lambda block, inputs, output: self._inner.update(output=output))

    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        return self.unet(noisy, timestep, context, return_dict=False)[0].float(), self._inner["output"]


def compiled(model: Model, device: torch.device) -> nn.Module:
    """The denoiser, on a GPU compiled and warmed up for forward and backward on batches as they are trained on."""
    unet = Watched(model.unet)
    if device.type != "cuda":
        return unet
    unet, batch = torch.compile(unet, dynamic=False), BATCH[device.type]
    latents = torch.randn(batch, model.autoencoder.channels, WINDOW, WINDOW, device=device)
    latents = latents.contiguous(memory_format=torch.channels_last)
    context = torch.randn(batch, 65, model.unet.config.cross_attention_dim, device=device, requires_grad=True)
    timestep = torch.randint(1000, (batch,), device=device)
    with torch.autocast(device.type, torch.bfloat16):
        sum(part.float().mean() for part in unet(latents, timestep, context)).backward()
    model.unet.zero_grad(set_to_none=True)
    return unet


def train_denoiser(model: Model, unet: nn.Module, samples: Samples, out: Path, seconds: float, rate: float) -> Model:
    """Train the model's denoiser (given also as `compiled` gives it) and conditioner, and keep their averages."""
    device, scheduler, conditioner = samples.device, model.scheduler, model.conditioner
    weights = model.autoencoder.importance.sqrt().to(device)
    weights = weights / weights.mean()
    alphas = scheduler.alphas_cumprod.to(device)
    batch = BATCH.get(device.type, SMALL_BATCH)
    project = nn.Conv2d(model.unet.config.block_out_channels[-1], samples.features.shape[1], 1).to(device)

    def loss_of(generator: torch.Generator) -> dict[str, Tensor]:
        parts, features = samples.draw(batch, generator)
        latents = torch.cat([latents for _, latents, _ in parts])
        arranged = []
        for level, _, grids in parts:
            noise = torch.randn(grids.shape, generator=generator, device=device) * grids.shape[-1] ** -0.5
            amount = CONDITION_NOISE * torch.rand(len(grids), 1, 1, 1, generator=generator, device=device)
            arranged.append(conditioner.arrange(grids + amount * noise, level))
        context = conditioner(*(torch.cat(p) for p in zip(*arranged, strict=True))).float()
        drop = torch.rand(len(latents), generator=generator, device=device) < DROPOUT
        context = torch.where(drop[:, None, None], conditioner.null(1), context)
        even = torch.rand(len(latents), generator=generator, device=device)
        bell = torch.randn(len(latents), generator=generator, device=device).sigmoid()
        middle = torch.rand(len(latents), generator=generator, device=device) < MIDDLE
        timestep = (torch.where(middle, bell, even) * len(alphas)).long().clamp(max=len(alphas) - 1)
        noise = torch.randn(latents.shape, generator=generator, device=device)
        a = alphas[timestep][:, None, None, None]
        noisy = (a.sqrt() * latents + (1 - a).sqrt() * noise).contiguous(memory_format=torch.channels_last)
        target = a.sqrt() * noise - (1 - a).sqrt() * latents
        predicted, inner = unet(noisy, timestep, context)
        errors = ((predicted - target).square() * weights).mean((1, 2, 3))
        finest = errors[: len(parts[0][1])].mean()
        alike = F.cosine_similarity(project(inner[: len(features)]).float(), features, dim=1).mean()
        logged = {"error": errors.mean().detach(), "finest": finest.detach(), "alike": alike.detach()}
        return {"loss": errors.mean() - ALIGNED * alike, **logged}

    modules = {"unet": model.unet, "conditioner": conditioner, "project": project}
    trained = train_for(seconds, modules, loss_of, out, rate=rate)
    model.unet, model.conditioner = trained["unet"], trained["conditioner"]
    return model
