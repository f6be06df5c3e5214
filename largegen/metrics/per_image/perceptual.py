"""ST-LPIPS of tiles: how unlike a generated one looks to the real one in whose place it is."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from largegen.metrics.sets.pair_tiles import Batch
from largegen.models.pixels import to_network

TILE_BATCH = 4  # tiles: 256 px of each of 4 pairs take 0.5 GB


def perceptual_distances(batches: Iterable[Batch], network: nn.Module, device: torch.device) -> np.ndarray:
    """Compute ST-LPIPS between real and generated tiles (Ghildyal & Liu 2022).

    Args:
        batches: Numbers of tiles, real ones and generated ones (B, size, size, 3) uint8.
        network: As `networks.perceptual_network` gives it.
        device: Where it is.

    Returns:
        Distances (N,) float64 in the batches' order; 0 where tiles are equal.
    """
    found = []
    with torch.inference_mode():
        for _, real, fake in batches:
            for pair in zip(to_network(real).split(TILE_BATCH), to_network(fake).split(TILE_BATCH), strict=True):
                found.append(network(*(side.to(device) for side in pair)).flatten().double().cpu())
    return np.asarray(torch.cat(found))
