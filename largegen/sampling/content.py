"""What a part of an image shall show: new embeddings for the tiles that its mask touches.

`surroundings` is a `Content`, and the other functions make one.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from largegen.errors import InputError
from largegen.models.grid_prior import GridPrior
from largegen.models.model import Model
from largegen.sampling.imagine import sample_cells
from largegen.sampling.settings import Imagining

# embeddings (R, C, D) of all tiles, and which of them the mask touches (R, C) bool -> new embeddings (R, C, D)
Content = Callable[[Tensor, np.ndarray], Tensor]


def surroundings(features: Tensor, touched: np.ndarray) -> Tensor:
    """Take for each touched tile the mean of the others, near ones before far ones: by the square of the distance.

    Raises:
        InputError: where every tile is touched.
    """
    if touched.all():
        raise InputError("`mask`: touches every tile, so nothing around it tells what to put there; say what")
    new, known = np.argwhere(touched), np.argwhere(~touched)
    weights = 1 / np.square(new[:, None] - known[None]).sum(-1, dtype=float)
    means = torch.from_numpy(weights / weights.sum(1, keepdims=True)).float() @ features[torch.from_numpy(~touched)]
    return _put(features, touched, means)


def from_donor(donor: np.ndarray, row: int, col: int) -> Content:
    """Take the tiles of another grid; its tile (row, col) comes where the touched tiles' first row and column meet.

    Args:
        donor: (rows, cols, D) embeddings.
        row: of its tile.
        col: of its tile.
    """

    def content(features: Tensor, touched: np.ndarray) -> Tensor:
        places = np.argwhere(touched)
        places = places - places.min(0) + (row, col)
        rows, cols = places.max(0)
        if row < 0 or col < 0 or rows >= donor.shape[0] or cols >= donor.shape[1]:
            raise InputError(
                f"`at` {row},{col}: the mask needs the donor's tiles to {rows},{cols}; it has"
                f" {donor.shape[0]}x{donor.shape[1]}, from 0,0"
            )
        return _put(features, touched, torch.from_numpy(donor[tuple(places.T)]))

    return content


def moved(steps: Sequence[tuple[np.ndarray, float]]) -> Content:
    """Move the touched tiles' embeddings along directions.

    Args:
        steps: directions (D,) with how far to go along each; 1 is all its length.
    """

    def content(features: Tensor, touched: np.ndarray) -> Tensor:
        for direction, _ in steps:
            if direction.shape != features.shape[2:]:
                raise InputError(
                    f"`move`: a direction of shape {direction.shape}, but embeddings of {features.shape[2]}"
                )
        total = sum(torch.from_numpy(np.asarray(direction, np.float32)) * far for direction, far in steps)
        return _put(features, touched, features[torch.from_numpy(touched)] + total)

    return content


def imagined(prior: GridPrior, imagining: Imagining, seed: int, progress: bool = False) -> Content:
    """Let a prior go on with what is around, under its label or prompt if one is asked for.

    Args:
        prior: of embeddings of the model's encoder.
        imagining: condition, guidance and steps.
        seed: of the noise.
        progress: show a progress bar.
    """

    def content(features: Tensor, touched: np.ndarray) -> Tensor:
        known = torch.from_numpy(~touched)

        def canvas_of(grid: Tensor) -> Tensor:
            return prior.to_canvas(grid.to(prior.device), torch.ones_like(known).to(prior.device))[None].cpu()

        asked = imagining.label is not None or imagining.prompt is not None
        guess = canvas_of(surroundings(features, touched)) if known.any() and not asked else None
        rows, cols = touched.shape
        around = (canvas_of(features), known) if known.any() else None
        canvas = sample_cells(prior, rows, cols, imagining, seed, progress=progress, known=around, guess=guess)
        found, _ = prior.from_canvas(canvas.to(prior.device))
        return torch.where(known[..., None], features, found[0].cpu())

    return content


def check_prior(model: Model, prior: GridPrior) -> None:
    """Raise InputError for a prior whose embeddings are not the model's."""
    own, found = model.info, prior.info
    by = "encoder_fingerprint" if own.encoder_fingerprint and found.encoder_fingerprint else "encoder"
    if getattr(own, by) != getattr(found, by) or prior.config.embedding_dim != own.embedding_dim:
        raise InputError(f"`prior`: of embeddings of {found.encoder}, but model {own.name} needs {own.encoder}")


def _put(features: Tensor, touched: np.ndarray, new: Tensor) -> Tensor:
    changed = features.clone()
    changed[torch.from_numpy(touched)] = new.to(features)
    return changed
