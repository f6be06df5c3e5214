"""Random crops of slides, each a pure function of (seed, sample number)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from largegen.errors import InputError
from largegen.models.pixels import to_network
from largegen.runtime.fingerprints import content_digest
from largegen.slides.slide import Slide
from largegen.slides.tiles import tile_grid, tissue_fraction
from largegen.slides.tissue import TRAINING_CROP, VALIDATION_CROP, tissue_mask
from largegen.training.held_out import HeldOut
from largegen.training.sampler import orient, sample_rng

IN_MEMORY_BYTES = 2**30  # a slide smaller than this at the wanted resolution is decoded once and kept
MAX_TRIES = 20  # draws of a crop that avoids the held-out blocks, before it stays where its tile is


class SlidePixels:
    """A slide's pixels at one resolution, in its own pixels; decoded once if that fits into memory.

    slide: open slide; downsample: level-0 pixels per pixel. `width` and `height` are the image's size in pixels.
    """

    def __init__(self, slide: Slide, downsample: float):
        self.slide, self.downsample = slide, downsample
        self.width, self.height = int(slide.width / downsample), int(slide.height / downsample)
        self._pixels = None
        if self.width * self.height * 3 <= IN_MEMORY_BYTES:
            self._pixels = slide.read(0, 0, self.width, self.height, downsample)

    def crop(self, x: int, y: int, size_px: int) -> np.ndarray:
        """Read the (size_px, size_px, 3) uint8 image with its top-left corner at (x, y)."""
        if self._pixels is not None:
            return self._pixels[y : y + size_px, x : x + size_px]
        x0, y0 = round(x * self.downsample), round(y * self.downsample)
        return self.slide.read(x0, y0, size_px, size_px, self.downsample)


class CropDataset(Dataset):
    """Random crops of the tissue of slides, turned and flipped, `views` nearby crops to a sample.

    slides: (slide, downsample) pairs, drawn equally often. Sample n is a dict with `image`: (views, 3, crop_px,
    crop_px) float32 in [-1, 1]. Views of one sample are at most `shift_px` apart, at the base. With `levels` > 1 some
    samples show 2^k crop sides, k < levels, at a 2^k-th of the resolution: half as many for each k as for the one
    before. Crops never touch the blocks kept for validation, a fraction `held_out` of all. Raises InputError
    where no crop is left.
    """

    def __init__(
        self,
        slides: Sequence[tuple[Slide, float]],
        crop_px: int,
        *,
        views: int = 1,
        shift_px: int = 0,
        levels: int = 1,
        min_tissue: float = TRAINING_CROP.tissue,
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
            raise InputError("no training crop: the slides hold no tissue, or `held_out` keeps all of it out")

    def __getitem__(self, sample: int) -> dict[str, torch.Tensor]:
        rng = sample_rng(self.seed, sample)
        places = self.places[rng.integers(len(self.places))]
        number, x, y = places[rng.integers(len(places))]
        rarity = 2.0 ** -np.arange(self.levels)
        level = int(rng.choice(self.levels, p=rarity / rarity.sum()))
        views = [self._crop(number, x, y, level, rng) for _ in range(self.views)]
        return {"image": to_network(np.stack(views))}

    def _crop(self, number: int, x: int, y: int, level: int, rng: np.random.Generator) -> np.ndarray:
        """Read a crop near (x, y) at `level`, or at a finer one where held-out blocks or the edge are in the way."""
        name = self.pixels[number].slide.name
        reach = max(self.shift_px // 2, self.crop_px // 8)  # the places are a quarter crop apart
        for k in range(level, -1, -1):
            pixels, side = self.pyramids[number][k], self.crop_px << k
            limit = (pixels.width - self.crop_px, pixels.height - self.crop_px)
            for _ in range(MAX_TRIES if min(limit) >= 0 else 0):
                corner = np.add((x, y), rng.integers(self.crop_px - side - reach, reach + 1, 2))
                near_x, near_y = np.clip(corner >> k, 0, limit).tolist()
                if not self.held_out.touches(name, near_x << k, near_y << k, side):
                    return orient(pixels.crop(near_x, near_y, self.crop_px), int(rng.integers(8)))
        return orient(self.pixels[number].crop(x, y, self.crop_px), int(rng.integers(8)))

    def describe(self) -> dict[str, Any]:
        """Describe the slides and their size, for the record."""
        tiles = sum(p.width * p.height for p in self.pixels) // self.crop_px**2
        places = [places[len(places) // 2] for places in self.places]
        some = (self.pixels[number].crop(x, y, self.crop_px).tobytes() for number, x, y in places)
        return {
            "slides": [p.slide.name for p in self.pixels],
            "tiles": tiles,
            "places": sum(map(len, self.places)),
            "data": content_digest(some, ()),  # a crop of each slide: others of the same names are told apart
        }

    def validation(self, limit: int = 256) -> np.ndarray:
        """Read up to `limit` held-out crops, (N, crop_px, crop_px, 3) uint8, evenly taken; N is 0 without tissue."""
        places, step = [], self.held_out.block_px
        for number, pixels in enumerate(self.pixels):
            if min(pixels.width, pixels.height) < step:
                continue  # no whole block
            for x, y in tissue_places(pixels.slide, pixels.downsample, step, step, VALIDATION_CROP.tissue):
                if self.held_out.holds(pixels.slide.name, y // step, x // step):
                    places.append((number, x, y))
        chosen = places[:: max(1, len(places) // limit)][:limit]
        crops = [self.pixels[number].crop(x, y, self.crop_px) for number, x, y in chosen]
        return np.stack(crops) if crops else np.empty((0, self.crop_px, self.crop_px, 3), np.uint8)


def tissue_places(
    slide: Slide, downsample: float, tile_px: int, stride_px: int, min_tissue: float
) -> list[tuple[int, int]]:
    """Find top-left corners (x, y), in pixels at this resolution, of tiles with at least `min_tissue` tissue (0..1)."""
    grid = tile_grid(slide, downsample, tile_px, tile_px - stride_px)
    fraction = tissue_fraction(grid, slide, tissue_mask(slide))
    return [(int(col) * stride_px, int(row) * stride_px) for row, col in np.argwhere(fraction >= min_tissue)]
