"""Images and latents of many sizes on one device, and random squares of them without work on the host."""

import csv
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from largegen.augmenting.variations import draw_mixture, with_mixed_densities

STAIN = 0.25  # see `largegen augment --stain-jitter`
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True)
class Region:
    """A row of manifest.csv: one image, what it shows and its scale."""

    path: Path
    kind: str  # tissue or aerial
    split: str
    subject: str  # the slide or place that it is of

    def read(self) -> Tensor:
        """(3, H, W) uint8; of a packed image the bands that are there, one below the other (see pack.py)."""
        paths = [self.path] if self.path.exists() else sorted(self.path.parent.glob(f"{self.path.stem}.band*.jpg"))
        bands = [np.array(Image.open(path).convert("RGB")) for path in paths]
        return torch.from_numpy(np.concatenate(bands)).movedim(-1, 0)


def read_manifest(data: Path, split: str) -> list[Region]:
    """The histology regions (about 20x) and aerial images of a split."""
    regions = []
    with (data / "manifest.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            folder, name = row["file"].split("/", 1)
            if row["split"] == split and folder in ("histology", "aerial") and "/" not in name:
                kind = "tissue" if folder == "histology" else "aerial"
                subject = name.rsplit("-", 2)[0] if kind == "tissue" else name.split("-")[0]
                regions.append(Region(data / row["file"], kind, split, subject))
    return regions


def read_all(regions: list[Region]) -> list[Tensor]:
    """The images of regions, (3, H, W) uint8 each."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(Region.read, regions))


class Maps:
    """Arrays (C, H_i, W_i) of one type in a single buffer, from which squares are gathered.

    weights: how often each is drawn, per possible place.
    """

    def __init__(self, arrays: list[Tensor], weights: list[float] | None = None):
        self.channels = arrays[0].shape[0]
        self.values = torch.cat([a.movedim(0, -1).reshape(-1, self.channels) for a in arrays])
        device = self.values.device
        self.sizes = torch.tensor([a.shape[1:] for a in arrays], device=device)
        self.starts = torch.tensor([0, *(a.shape[1] * a.shape[2] for a in arrays[:-1])], device=device).cumsum(0)
        self.weights = torch.tensor(weights or [1.0] * len(arrays), device=device)

    def draw(self, count: int, size: int, generator: torch.Generator, only: Tensor | None = None, multiple: int = 1):
        """`count` random places for squares of `size`: map numbers, rows and columns, each (count,)."""
        room = ((self.sizes - size) // multiple + 1).clamp(min=0)
        odds = room.prod(1) * self.weights
        which = torch.multinomial((odds if only is None else odds * only).float(), count, True, generator=generator)
        at = torch.rand(count, 2, generator=generator, device=self.values.device) * room[which]
        rows, cols = (at.long().minimum(room[which] - 1) * multiple).unbind(1)
        return which, rows, cols

    def squares(self, which: Tensor, rows: Tensor, cols: Tensor, size: int) -> Tensor:
        """The squares (count, C, size, size) with those top-left corners; channels-last in memory."""
        side = torch.arange(size, device=self.values.device)
        width = self.sizes[which, 1]
        index = (self.starts[which] + rows * width + cols)[:, None, None] + side[:, None] * width[:, None, None] + side
        return self.values[index].movedim(-1, 1)


def shrunk(image: Tensor, level: int) -> Tensor:
    """(3, H, W) uint8 at a 2^level-th of its resolution, by the mean of each square."""
    if not level:
        return image
    return F.avg_pool2d(image.float(), 2**level).round().to(torch.uint8)


def to_float(pixels: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def orient(squares: Tensor, way: int) -> Tensor:
    """One of the 8 flips and quarter turns of (..., H, W)."""
    squares = squares.rot90(way % 4, (-2, -1))
    return squares.flip(-1) if way >= 4 else squares


def recoloured(image: Tensor, generator: torch.Generator) -> Tensor:
    """(3, H, W) uint8 as another scanner or stain batch might show it."""
    rng = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))
    return with_mixed_densities(image.movedim(0, -1), draw_mixture(STAIN, rng)).movedim(-1, 0).contiguous()
