"""What a grid prior is trained on: windows of grids of embeddings, with their scales, labels and vectors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from largegen.errors import InputError
from largegen.models.denoiser import TIMESTEPS
from largegen.models.grid_prior import NO_LABEL, GridPrior
from largegen.slides.tissue import sliding_sums
from largegen.training.held_out import HeldOut
from largegen.training.sampler import sample_rng

CONDITION_DROPOUT = 0.1  # part of the samples without label and vector, for guidance
ONE_OF_TWO = 2 / 3  # part of those with both that see one alone, as it will be asked for
VECTOR_NOISE = 0.2  # length of what is added to a unit vector: no prompt says what a training vector says


@dataclass(frozen=True)
class TrainingGrid:
    """A grid of embeddings and what is known of it."""

    name: str
    features: np.ndarray  # (rows, cols, D) float32
    tissue: np.ndarray  # (rows, cols) bool
    scale: int = 0  # index into the prior's scales
    label: int = NO_LABEL  # index into the prior's labels
    vectors: Tensor = field(default_factory=lambda: torch.zeros(0, 1))  # (n, V), centred; one is drawn each time
    places: np.ndarray | None = None  # (n, 2) first tile of the window that each vector is of; None: of all
    tile: Callable[[int, int], np.ndarray] | None = None  # pixels (H, W, 3) of a tile, for what shows samples


class GridWindows(Dataset):
    """Windows of grids; sample n is drawn from its number alone.

    With `turned`, windows are turned and mirrored in all eight ways, and their embeddings stay as they are.

    A sample is a window of the `canvas` (K + 1, w, w), `mask` (w, w) where the grid reaches, `scale`, `label`,
    `vector`, a `timestep` and the `noise`. Every window holds tissue; those that touch a held-out block, a fraction
    `held_out` of all blocks as large as a window, are left out. Raises InputError where nothing is left.
    """

    def __init__(
        self, prior: GridPrior, grids: Sequence[TrainingGrid], held_out: float, seed: int, turned: bool = False
    ):
        self.grids, self.seed, self.window, self.turned = grids, seed, int(prior.config.window), turned
        self.vector_dim = prior.vector_dim
        self.canvases = [prior.to_canvas(torch.from_numpy(g.features), torch.from_numpy(g.tissue)) for g in grids]
        kinds = [self._places(grid, HeldOut(held_out, self.window, seed)) for grid in grids]
        self.training, self.validation = (
            np.concatenate([np.insert(places, 0, number, axis=1) for number, places in enumerate(part)])
            for part in zip(*kinds, strict=True)
        )  # (N, 3): grid, row and column of the first tile
        if not len(self.training):
            raise InputError("no window of tissue to train on: the grids hold none, or all are held out")

    def _places(self, grid: TrainingGrid, held_out: HeldOut) -> tuple[np.ndarray, np.ndarray]:
        """List the first tiles (n, 2) of windows to train on, and of those that are held out."""
        rows, cols = grid.tissue.shape
        size = min(rows, self.window), min(cols, self.window)
        blocks = [
            [held_out.holds(grid.name, row, col) for col in range(-(-cols // self.window))]
            for row in range(-(-rows // self.window))
        ]
        held = np.array(blocks).repeat(self.window, 0).repeat(self.window, 1)[:rows, :cols]
        counts, usable = sliding_sums(held, *size), sliding_sums(grid.tissue, *size) > 0
        if grid.places is not None:
            wanted = np.zeros_like(usable)
            wanted[tuple(grid.places.T)] = True
            usable &= wanted
        return np.argwhere(usable & (counts == 0)), np.argwhere(usable & (counts == size[0] * size[1]))

    def __getitem__(self, sample: int) -> dict[str, Tensor]:
        rng = sample_rng(self.seed, sample)
        number, row, col = self.training[rng.integers(len(self.training))].tolist()
        found = self.read(number, row, col, rng)
        noise = rng.standard_normal(found["canvas"].shape, np.float32)
        return found | {"timestep": torch.tensor(int(rng.integers(TIMESTEPS))), "noise": torch.from_numpy(noise)}

    def read(self, number: int, row: int, col: int, rng: np.random.Generator | None = None) -> dict[str, Tensor]:
        """Read one window: with `rng`, a small grid anywhere in it, conditions dropped and vectors changed a little."""
        canvas, grid, w = self.canvases[number], self.grids[number], self.window
        part = canvas[:, row : row + w, col : col + w]
        top, left = (int(rng.integers(w - side + 1)) if rng else 0 for side in part.shape[1:])
        place = (slice(top, top + part.shape[1]), slice(left, left + part.shape[2]))
        window, mask = torch.zeros(len(canvas), w, w), torch.zeros(w, w, dtype=torch.bool)
        window[:, *place], mask[place] = part, True
        if rng and self.turned:
            window, mask = _turned(torch.cat([window, mask[None]]), int(rng.integers(8))).tensor_split([-1])
            mask = mask[0].bool()
        label, vector = grid.label, self._vector(grid, row, col, rng)
        if rng and rng.random() < CONDITION_DROPOUT:
            label, vector = NO_LABEL, torch.zeros_like(vector)
        elif rng and label != NO_LABEL and vector.any() and rng.random() < ONE_OF_TWO:
            if rng.random() < 0.5:
                label = NO_LABEL
            else:
                vector = torch.zeros_like(vector)
        numbers = {"scale": torch.tensor(grid.scale), "label": torch.tensor(label)}
        return {"canvas": window, "mask": mask, "vector": vector, **numbers}

    def _vector(self, grid: TrainingGrid, row: int, col: int, rng: np.random.Generator | None) -> Tensor:
        fitting = np.arange(len(grid.vectors))
        if grid.places is not None:
            fitting = np.flatnonzero((grid.places == (row, col)).all(1))
        if not len(fitting):
            return torch.zeros(self.vector_dim)
        if rng is None:
            return grid.vectors[fitting[0]]
        vector = grid.vectors[fitting[int(rng.integers(len(fitting)))]]
        noise = torch.from_numpy(rng.standard_normal(len(vector), np.float32))
        return vector + VECTOR_NOISE / len(vector) ** 0.5 * noise


def _turned(windows: Tensor, way: int) -> Tensor:
    """One of the eight flips and quarter turns of (..., w, w), as sampler.orient."""
    windows = windows.rot90(way % 4, (-2, -1))
    return windows.flip(-1) if way >= 4 else windows
