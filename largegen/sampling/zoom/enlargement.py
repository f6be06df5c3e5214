"""The embeddings under an image that is to be enlarged: patch by patch, by inversion from the encoder's view of it.

Images of any size are cut into patches as large as a model's window, which overlap by half.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from largegen.conditioning.low_image import factors_of
from largegen.conditioning.suitable import encoder_of
from largegen.errors import InputError
from largegen.models.encoder import Encoder, load_encoder
from largegen.models.model import Model
from largegen.models.pixels import check_image, to_images, to_network
from largegen.sampling.noise import INVERSION, noise
from largegen.sampling.resume import Checkpoint, ProgressSaver
from largegen.sampling.settings import Inversion, Sampling
from largegen.sampling.windows import Place, overlap_windows
from largegen.sampling.zoom.downsample import enlarge
from largegen.sampling.zoom.invert import invert, standardized
from largegen.slides.lazy_image import LazyImage, read_mirrored

EDGE = 4  # px around a tile that are enlarged with it and cut off
VIEW_BATCH = 16  # tiles that are embedded at once
SAVE_EVERY_S = 1e-3  # what is found is saved after each batch, unless saving takes long
INVERSION_BATCH = 8  # patches at once, at most: gradients take room


@dataclass(frozen=True)
class Enlargement:
    """An image, and how much a model enlarges it."""

    model: Model
    image: np.ndarray | LazyImage  # (H, W, 3) uint8
    factor: int

    def __post_init__(self) -> None:
        """Check the image and the factor.

        Raises:
            InputError: for those that cannot be.
            ModelError: for a model of one magnification.
        """
        image, factors = self.image, factors_of(self.model)
        if isinstance(image, np.ndarray):
            check_image(image)
        if self.factor not in factors:
            known = ", ".join(map(str, factors))
            raise InputError(f"`factor` {self.factor}: model {self.model.info.name} enlarges by {known}")

    @property
    def level(self) -> int:
        """Magnification level of the image."""
        return self.factor.bit_length() - 1

    @property
    def cell(self) -> int:
        """Side of a tile, in px of the image."""
        return self.model.tile_px // self.factor

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the enlarged image, in px."""
        return self.image.shape[0] * self.factor, self.image.shape[1] * self.factor

    @property
    def canvas_size(self) -> tuple[int, int]:
        """(height, width) of what is sampled, in px: the enlarged image, and a little more at its end."""
        step = max(self.factor, self.model.factor)
        height, width = (max(self.model.tile_px, -(-side // step) * step) for side in self.size)
        return height, width

    @property
    def whole(self) -> LazyImage:
        """The image, continued right and below as in a mirror to whole tiles and at least one patch."""
        old = self.image.shape[0], self.image.shape[1]
        height, width = (max(self.model.tile_px, -(-side // self.cell) * self.cell) for side in old)

        def read(top: int, bottom: int) -> np.ndarray:
            return read_mirrored(lambda first, last: self.image[first:last], old, (top, bottom), (0, width))

        return LazyImage((height, width, 3), read)

    @property
    def tiles(self) -> tuple[int, int]:
        """(rows, columns) of the tiles of `whole`."""
        return self.whole.shape[0] // self.cell, self.whole.shape[1] // self.cell

    @property
    def patches(self) -> list[Place]:
        """The first tile (row, col) of each patch: as many tiles a side as the factor, half overlapping."""
        return overlap_windows(*self.tiles, self.factor, self.factor // 2)


def encoder_for(
    model: Model, inversion: Inversion, encoder: Encoder | None = None, weights: Path | None = None
) -> Encoder | None:
    """Return the encoder that a search from a view needs, None for one from noise.

    Args:
        model: whose encoder it is.
        inversion: says where to start.
        encoder: one that is loaded already.
        weights: file of its weights, where no hub has them.
    """
    if inversion.start == "noise":
        return None
    return encoder or load_encoder(encoder_of(model), weights, model.device)


def first_embeddings(work: Enlargement, encoder: Encoder | None, seed: int, progress: bool = False) -> Tensor:
    """Return what the search for the embeddings starts from, (R, C, D) float32, one for each tile.

    Args:
        work: the image.
        encoder: the model's, which is shown each tile, enlarged; None: noise.
        seed: of the noise.
        progress: show a progress bar.
    """
    rows, cols = work.tiles
    if encoder is None:
        return noise(seed, INVERSION + 1, 0, 0, rows, cols, work.model.info.embedding_dim)[0].movedim(0, -1)
    size = work.whole.shape[:2]
    side, inside = work.cell + 2 * EDGE, slice(EDGE * work.factor, -EDGE * work.factor)
    found = []
    for row in tqdm(range(rows), "view", unit="row", disable=None if progress else True):
        top = row * work.cell - EDGE
        band = read_mirrored(work.whole.read, size, (top, top + side), (-EDGE, size[1] + EDGE))
        tiles = np.stack([band[:, col * work.cell :][:, :side] for col in range(cols)])
        for first in range(0, cols, VIEW_BATCH):
            large = enlarge(to_network(tiles[first : first + VIEW_BATCH]), work.factor)[..., inside, inside]
            found.append(torch.from_numpy(encoder.encode(to_images(large))))
    return torch.cat(found).view(rows, cols, -1)


def find_embeddings(
    work: Enlargement,
    start: Tensor,
    inversion: Inversion,
    sampling: Sampling,
    *,
    checkpoint: Checkpoint | None = None,
    progress: bool = False,
) -> tuple[Tensor, float]:
    """Find the embeddings under an image by inversion, patch by patch; where patches overlap, their mean.

    Args:
        work: the image.
        start: as `first_embeddings` gives it.
        inversion: how they are searched.
        sampling: whose seed and batch size are taken.
        checkpoint: what a killed run resumes from, after nearly each batch of patches.
        progress: show a progress bar.

    Returns:
        (R, C, D) float32 on the CPU, standardised; and the mean steps of a patch.
    """
    if not inversion.invert_steps:
        return standardized(start), 0.0
    model, side, places = work.model, work.factor, work.patches
    sums, done = torch.zeros(*start.shape[:2], start.shape[2] + 2), 0  # of embeddings, steps, and their weights
    saver = None
    if checkpoint is not None:
        often = replace(checkpoint, save_every_s=min(SAVE_EVERY_S, checkpoint.save_every_s))
        saver = ProgressSaver(often, f"{inversion} {sampling.seed}")
        if saved := saver.load():
            done, sums = saved.step, saved.canvas
    size, steps = min(sampling.batch_size, INVERSION_BATCH), inversion.invert_steps
    hidden = None if progress else True
    with tqdm(desc="invert", unit="step", total=len(places) * steps, initial=done * steps, disable=hidden) as bar:
        for first in range(done, len(places), size):
            batch = places[first : first + size]
            grids = torch.stack([start[row:, col:][:side, :side] for row, col in batch])
            found, taken = invert(
                lambda noisy, timestep, embeddings: model.eps_under(noisy, timestep, embeddings, work.level),
                model.scheduler,
                _latents_at(work, batch),
                grids.to(model.device),
                _noise_at(work, batch, sampling.seed),
                inversion,
                bar.update,
            )
            for (row, col), grid, count in zip(batch, found.cpu(), taken, strict=True):
                told = torch.cat([grid, torch.full((side, side, 1), float(count)), torch.ones(side, side, 1)], -1)
                sums[row : row + side, col : col + side] += told * _hat(side)
            if saver is not None:
                saver.save(first + len(batch), size, sums, {}, last=first + size >= len(places))
    means = sums[..., :-1] / sums[..., -1:]
    return standardized(means[..., :-1]), float(means[..., -1].mean())


def _latents_at(work: Enlargement, places: list[Place]) -> Tensor:
    side, cell = work.model.tile_px, work.cell
    patches = np.stack([work.whole[row * cell : row * cell + side][:, col * cell :][:, :side] for row, col in places])
    return work.model.autoencoder.encode(to_network(patches)).clone()  # of tensors for inference none has gradients


def _noise_at(work: Enlargement, places: list[Place], seed: int) -> Callable[[int], Tensor]:
    """Return what gives the noise of patches at a step, keyed by where they lie on the image."""
    window, channels = work.model.window, work.model.autoencoder.channels
    tile = window // work.factor  # its latents a side

    def noise_at(step: int) -> Tensor:
        parts = [noise(seed, INVERSION - step, row * tile, col * tile, window, window, channels) for row, col in places]
        return torch.cat(parts).to(work.model.device)

    return noise_at


def _hat(side: int) -> Tensor:
    """Return the weights (side, side, 1) of a patch's tiles in the mean over patches: most in its middle."""
    line = torch.arange(side) + 0.5
    line = line.minimum(side - line)
    return (line[:, None] * line)[..., None]
