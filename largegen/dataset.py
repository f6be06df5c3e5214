"""Training samples: crops of slides, each a pure function of (seed, sample number).

Sample n is the same whatever process or worker draws it, and whenever: a resumed run goes on with exactly the samples
that the uninterrupted one would have seen, and two processes see what one would.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from largegen.errors import InputError
from largegen.slide import Slide
from largegen.tiles import tile_grid, tissue_fraction, tissue_mask

IN_MEMORY_BYTES = 2**30  # a slide smaller than this at the wanted resolution is decoded once and kept
TRIES = 20  # draws of a crop that avoids the held-out blocks, before it stays where its tile is


def sample_rng(seed: int, sample: int) -> np.random.Generator:
    """The random numbers of training sample `sample` >= 0: a function of the two numbers only."""
    return np.random.Generator(np.random.Philox(key=np.array([seed % 2**64, sample], np.uint64)))


def turn(picture: np.ndarray, k: int) -> np.ndarray:
    """One of the 8 flips and quarter turns of a (H, W, ...) array: k % 4 quarter turns, mirrored where k >= 4."""
    picture = np.rot90(picture, k % 4)
    return picture[:, ::-1] if k >= 4 else picture


def to_network(pictures: np.ndarray) -> torch.Tensor:
    """Pictures (..., H, W, 3) uint8 -> (..., 3, H, W) float32 in [-1, 1]."""
    tensor = torch.from_numpy(np.ascontiguousarray(pictures)).movedim(-1, -3)
    return tensor.float() / 127.5 - 1


def to_pictures(tensor: torch.Tensor) -> np.ndarray:
    """(..., 3, H, W) float in [-1, 1] -> pictures (..., H, W, 3) uint8."""
    scaled = (tensor.float().clamp(-1, 1) + 1) * 127.5
    return scaled.round().to(torch.uint8).movedim(-3, -1).cpu().numpy()


class SlidePixels:
    """A slide's pixels at one resolution, in its own pixels; decoded once if that fits into memory.

    slide: open slide; downsample: level-0 pixels per pixel. `width` and `height` are the picture's size in pixels.
    """

    def __init__(self, slide: Slide, downsample: float):
        self.slide, self.downsample = slide, downsample
        self.width, self.height = int(slide.width / downsample), int(slide.height / downsample)
        self._pixels = None
        if self.width * self.height * 3 <= IN_MEMORY_BYTES:
            self._pixels = slide.read(0, 0, self.width, self.height, downsample)

    def crop(self, x: int, y: int, size_px: int) -> np.ndarray:
        """The (size_px, size_px, 3) uint8 picture with its top-left corner at (x, y)."""
        if self._pixels is not None:
            return self._pixels[y : y + size_px, x : x + size_px]
        x0, y0 = round(x * self.downsample), round(y * self.downsample)
        return self.slide.read(x0, y0, size_px, size_px, self.downsample)


@dataclass(frozen=True)
class HeldOut:
    """Which square blocks of a slide are kept for validation: chosen by a hash, so the choice never changes."""

    fraction: float = 0.05  # of the blocks
    block_px: int = 256  # side of a block, in pixels at the working resolution
    seed: int = 0

    def holds(self, name: str, row: int, col: int) -> bool:
        """Whether block (row, col) of the slide called `name` is a validation block."""
        digest = hashlib.blake2b(f"{self.seed} {name} {row} {col}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < self.fraction * 2**64

    @classmethod
    def for_tiles(cls, tile_px: int, fraction: float, seed: int) -> "HeldOut":
        """Blocks that tiles of `tile_px` px fit into."""
        return cls(fraction, max(256, tile_px), seed)

    def touches(self, name: str, x: int, y: int, size_px: int) -> bool:
        """Whether the square at (x, y) shares a pixel with a validation block."""
        return any(self.holds(name, *block) for block in self._blocks(x, y, size_px))

    def covers(self, name: str, x: int, y: int, size_px: int) -> bool:
        """Whether the square at (x, y) lies wholly in validation blocks."""
        return all(self.holds(name, *block) for block in self._blocks(x, y, size_px))

    def _blocks(self, x: int, y: int, size_px: int) -> Iterator[tuple[int, int]]:
        rows = range(y // self.block_px, (y + size_px - 1) // self.block_px + 1)
        cols = range(x // self.block_px, (x + size_px - 1) // self.block_px + 1)
        return product(rows, cols)


class CropDataset(Dataset):
    """Random crops of the tissue of slides, turned and flipped, `views` nearby crops to a sample.

    slides: (slide, downsample) pairs, drawn equally often. Sample n is a dict with `image`: (views, 3, crop_px,
    crop_px) float32 in [-1, 1]. Views of one sample are at most `shift_px` apart, at the base. With `levels` > 1 some
    samples show 2^k crop sides, k < levels, at a 2^k-th of the resolution: half as many for each k as for the one
    before. Crops never touch the blocks kept for validation, a part `held_out` of all. Raises InputError where no crop
    is left.
    """

    def __init__(
        self,
        slides: Sequence[tuple[Slide, float]],
        crop_px: int,
        *,
        views: int = 1,
        shift_px: int = 0,
        levels: int = 1,
        min_tissue: float = 0.1,
        held_out: float = 0.05,
        seed: int = 0,
    ):
        self.crop_px, self.views, self.shift_px, self.levels, self.seed = crop_px, views, shift_px, levels, seed
        self.held_out = HeldOut.for_tiles(crop_px, held_out, seed)
        self.pyramids = [[SlidePixels(slide, d * 2**k) for k in range(levels)] for slide, d in slides]
        self.pixels = [pyramid[0] for pyramid in self.pyramids]
        self.places: list[list[tuple[int, int, int]]] = []  # (slide, x, y) of each slide that has any
        for number, (slide, downsample) in enumerate(slides):
            corners = tissue_places(slide, downsample, crop_px, crop_px // 4, min_tissue)
            free = [(number, x, y) for x, y in corners if not self.held_out.touches(slide.name, x, y, crop_px)]
            self.places += [free] if free else []
        if not self.places:
            raise InputError("no training crop: the slides hold no tissue, or --validation keeps all of it out")

    def __getitem__(self, sample: int) -> dict[str, torch.Tensor]:
        rng = sample_rng(self.seed, sample)
        places = self.places[rng.integers(len(self.places))]
        number, x, y = places[rng.integers(len(places))]
        rarity = 2.0 ** -np.arange(self.levels)
        level = int(rng.choice(self.levels, p=rarity / rarity.sum()))
        views = [self._crop(number, x, y, level, rng) for _ in range(self.views)]
        return {"image": to_network(np.stack(views))}

    def _crop(self, number: int, x: int, y: int, level: int, rng: np.random.Generator) -> np.ndarray:
        """A crop near (x, y) at `level`, or at a finer one where held-out blocks or the slide's edge are in the way."""
        name = self.pixels[number].slide.name
        reach = max(self.shift_px // 2, self.crop_px // 8)  # the places are a quarter crop apart
        for k in range(level, -1, -1):
            pixels, side = self.pyramids[number][k], self.crop_px << k
            limit = (pixels.width - self.crop_px, pixels.height - self.crop_px)
            for _ in range(TRIES if min(limit) >= 0 else 0):
                corner = np.add((x, y), rng.integers(self.crop_px - side - reach, reach + 1, 2))
                near_x, near_y = np.clip(corner >> k, 0, limit).tolist()
                if not self.held_out.touches(name, near_x << k, near_y << k, side):
                    return turn(pixels.crop(near_x, near_y, self.crop_px), int(rng.integers(8)))
        return turn(self.pixels[number].crop(x, y, self.crop_px), int(rng.integers(8)))

    def describe(self) -> dict[str, Any]:
        """The slides and their size, for the record."""
        tiles = sum(p.width * p.height for p in self.pixels) // self.crop_px**2
        return {"slides": [p.slide.name for p in self.pixels], "tiles": tiles, "places": sum(map(len, self.places))}

    def validation(self, limit: int = 256) -> np.ndarray:
        """Up to `limit` held-out crops, (N, crop_px, crop_px, 3) uint8, evenly taken; N is 0 where none has tissue."""
        places, step = [], self.held_out.block_px
        for number, pixels in enumerate(self.pixels):
            if min(pixels.width, pixels.height) < step:
                continue  # no whole block
            for x, y in tissue_places(pixels.slide, pixels.downsample, step, step, 0.25):
                if self.held_out.holds(pixels.slide.name, y // step, x // step):
                    places.append((number, x, y))
        chosen = places[:: max(1, len(places) // limit)][:limit]
        crops = [self.pixels[number].crop(x, y, self.crop_px) for number, x, y in chosen]
        return np.stack(crops) if crops else np.empty((0, self.crop_px, self.crop_px, 3), np.uint8)


def tissue_places(
    slide: Slide, downsample: float, tile_px: int, stride_px: int, min_tissue: float
) -> list[tuple[int, int]]:
    """Top-left corners (x, y), in pixels at this resolution, of tiles with at least `min_tissue` tissue (0..1)."""
    grid = tile_grid(slide, downsample, tile_px, tile_px - stride_px)
    fraction = tissue_fraction(grid, slide, tissue_mask(slide))
    return [(int(col) * stride_px, int(row) * stride_px) for row, col in np.argwhere(fraction >= min_tissue)]


class StepSampler(Sampler[int]):
    """The sample numbers of one process, from `start_step` on: step s holds [s * batch, (s + 1) * batch).

    Each step's samples are dealt to the processes in contiguous, equal runs; a process's run is then cut into
    micro-batches by its DataLoader. `batch` is the whole step's, over all processes.
    """

    def __init__(self, batch: int, start_step: int, stop_step: int, rank: int = 0, world: int = 1):
        self.batch, self.steps = batch, range(start_step, stop_step)
        self.share = range(rank * batch // world, (rank + 1) * batch // world)

    def __iter__(self) -> Iterator[int]:
        for step in self.steps:
            yield from (step * self.batch + i for i in self.share)

    def __len__(self) -> int:
        return len(self.steps) * len(self.share)
