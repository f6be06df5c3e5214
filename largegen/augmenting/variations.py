"""Variations of an image in the space of embeddings: towards another image of its class, and in another stain."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from largegen.conditioning.interpolation import slerp
from largegen.embeddings.grid import EmbeddingGrid
from largegen.models.tile_encoder import TileEncoder

STAIN_TILES = 16  # of an image, that are recoloured to see how their embeddings move
MIXING = 0.5  # of the strength of a recolouring: how much of one colour's density goes to another


def mixed(grid: EmbeddingGrid, other: EmbeddingGrid, t: float) -> EmbeddingGrid:
    """Interpolate spherically from a grid towards another, of any size: tiles at the same relative place [L, sec. 4].

    Tiles that hold tissue in both are mixed, the others stay.

    Args:
        grid: At t = 0.
        other: At t = 1.
        t: 0 to 1.
    """
    (rows, cols), (other_rows, other_cols) = grid.tissue.shape, other.tissue.shape
    at = np.ix_(np.arange(rows) * other_rows // rows, np.arange(cols) * other_cols // cols)
    both = grid.tissue & other.tissue[at]
    features = grid.features.copy()
    if both.any():
        start, end = (torch.from_numpy(ends[both]) for ends in (grid.features, other.features[at]))
        features[both] = slerp(start, end, torch.full((int(both.sum()),), t)).numpy()
    return replace(grid, features=features)


def restained(
    grid: EmbeddingGrid, tiles: np.ndarray, encoder: TileEncoder, strength: float, rng: np.random.Generator
) -> EmbeddingGrid:
    """Move the embeddings of tissue as those of some tiles move when these are recoloured.

    Args:
        grid: What is varied.
        tiles: (N, H, W, 3) uint8, some of its tiles, at least one.
        encoder: Of the embeddings.
        strength: See `recoloured`.
        rng: Draws the recolouring, one for the whole image, as one slide has one stain.
    """
    change = (encoder.encode(recoloured(tiles, strength, rng)) - encoder.encode(tiles)).mean(0)
    features = grid.features.copy()
    features[grid.tissue] += change
    return replace(grid, features=features)


def recoloured(images: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Show images as another stain batch or scanner might: with their optical densities mixed. Glass stays glass.

    Args:
        images: (..., 3) uint8.
        strength: Each density is scaled by up to e to the power of this, up or down, and up to half of it of each other
            density is added or taken away.
        rng: Draws the mixture.

    Returns:
        (..., 3) uint8.
    """
    shown: np.ndarray = with_mixed_densities(torch.from_numpy(images), draw_mixture(strength, rng)).numpy()
    return shown


def draw_mixture(strength: float, rng: np.random.Generator) -> Tensor:
    """Draw how much of each optical density goes to each, (3, 3) float32; see `recoloured`."""
    mixture = MIXING * strength * rng.uniform(-1, 1, (3, 3))
    np.fill_diagonal(mixture, 0)
    mixture += np.diag(np.exp(strength * rng.uniform(-1, 1, 3)) - mixture.sum(1))  # greys keep their hue, all but
    return torch.from_numpy(mixture).float()


def with_mixed_densities(images: Tensor, mixture: Tensor) -> Tensor:
    """Mix the optical densities of images (..., 3) uint8, on any device, by a matrix (3, 3)."""
    density = -((images.float() + 1) / 256).log()
    shown = (-density @ mixture.T.to(images.device)).exp() * 256 - 1
    return shown.clamp(0, 255).round().to(torch.uint8)
