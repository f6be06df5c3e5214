"""Whether a model was trained on anything like a reference."""

import logging
from typing import TYPE_CHECKING

import torch

from largegen.models.known_embeddings import UNLIKE_SHARE

if TYPE_CHECKING:
    from largegen.embeddings.grid import EmbeddingGrid
    from largegen.models.model import Model

log = logging.getLogger(__name__)

DARK = 64  # mean RGB of a background below which a slide is of fluorescence


def count_unlike(model: "Model", grid: "EmbeddingGrid") -> int | None:
    """Count the tissue tiles of a reference that are unlike all that a model was trained on; warn of many.

    Args:
        model: What it was trained on is known by its statistics, see `KnownEmbeddings`.
        grid: The reference's embeddings.

    Returns:
        The number of tiles; None where the model has no statistics.
    """
    if model.known is None:
        return None
    tissue = grid.tissue if grid.tissue.any() else ~grid.tissue
    features = torch.as_tensor(grid.features[tissue])[:, : model.info.embedding_dim]
    unlike, tiles, reasons = model.known.unlike(features), len(features), differences(model, grid)
    many = unlike > UNLIKE_SHARE * tiles
    if many or reasons:
        log.warning(
            "%s: %s model %s was trained on%s: the image may not resemble it; another `model` may do better, or one"
            " trained on such images (`train --init-from`)",
            grid.source.name,
            f"{unlike} of its {tiles} tiles are unlike all that" if many else "it is unlike what",
            model.info.name,
            f" ({' and '.join(reasons)})" if reasons else "",
        )
    return unlike


def differences(model: "Model", grid: "EmbeddingGrid") -> list[str]:
    """Name how a reference is of another kind than what a model was trained on; its scale, see warn_of_resolution."""
    source, reasons = grid.source, []
    if model.mpp and source.gsd_m:
        reasons.append("a scene, and it knows slides only")
    elif model.info.base_gsd and not model.mpp and source.mpp:
        reasons.append("a slide, and it knows scenes only")
    elif source.kind != "scene" and sum(source.background) / 3 < DARK:
        reasons.append("dark around the tissue, as fluorescence is")
    return reasons
