"""Train the prior over grids of embeddings: its loss, and samples of it as the nearest real tiles."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from largegen.images.contact_sheet import contact_sheet
from largegen.models.grid_prior import SCHEDULE, GridPrior
from largegen.models.storage import save_network
from largegen.sampling.imagine import sample_cells
from largegen.sampling.settings import Imagining
from largegen.training.grids import GridWindows
from largegen.training.sampler import sample_rng
from largegen.training.task import Task

SHOWN = 4  # grids on a sheet, one of each of the first labels
THUMB_PX = 32  # side of a tile there
CANDIDATES = 2000  # tiles of which the nearest is shown
VALIDATED = 64  # held-out windows that the validation loss is of, at most


class PriorTask(Task):
    """The prior; the loss is the error of v where the grid reaches (Salimans & Ho 2022)."""

    def __init__(self, dataset: GridWindows, prior: GridPrior, dtype: torch.dtype | None = None):
        super().__init__()
        self.dataset, self.prior, self.dtype = dataset, prior, dtype
        config = {name: value for name, value in prior.config.items() if not name.startswith("_") and name != "info"}
        counts = {"windows": len(dataset.training), "validation_windows": len(dataset.validation)}
        drawn = {"seed": dataset.seed, "turned": dataset.turned}
        self.settings = {"kind": "prior", **config, **prior.info.as_dict(), **counts, **drawn}

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss of a batch; it has no parts."""
        canvas, noise, timestep = batch["canvas"], batch["noise"], batch["timestep"]
        noisy = SCHEDULE.add_noise(canvas, noise, timestep)
        condition = self.prior.condition(batch["scale"], batch["label"], batch["vector"])
        v = self.prior(noisy, timestep, condition, batch["mask"]).float()
        error = (v - SCHEDULE.get_velocity(canvas, noise, timestep)).square().mean(1)
        return (error * batch["mask"]).sum() / batch["mask"].sum(), {}

    def validate(self) -> dict[str, float]:
        """Compute the loss on held-out windows at 8 evenly spaced timesteps, always with the same noise."""
        places = self.dataset.validation[:: max(1, len(self.dataset.validation) // VALIDATED)][:VALIDATED]
        if not len(places):
            return {}
        windows = [self.dataset.read(*place) for place in places.tolist()]
        batch = {name: torch.stack([window[name] for window in windows]) for name in windows[0]}
        losses = []
        for timestep in range(62, 1000, 125):
            rng = sample_rng(self.dataset.seed, 2**63 + timestep)
            noise = torch.from_numpy(rng.standard_normal(batch["canvas"].shape, np.float32))
            with_noise = batch | {"noise": noise, "timestep": torch.full((len(places),), timestep)}
            loss, _ = self({name: value.to(self.prior.device) for name, value in with_noise.items()})
            losses.append(loss.item())
        return {"validation_loss": float(np.mean(losses))}

    def preview(self, path: Path) -> None:
        """Draw sampled grids: of every tile the nearest real one, or, where no slide is at hand, its components."""
        labels = list(self.prior.config.labels)[:SHOWN] or [None] * SHOWN
        side = int(self.prior.config.window)
        sheets = []
        for number, label in enumerate(labels):
            canvas = sample_cells(self.prior, side, side, Imagining(label=label, prior_steps=25), number)[0]
            sheets.append(self._picture(canvas))
        contact_sheet(np.stack(sheets), SHOWN, path)

    def _picture(self, canvas: Tensor) -> np.ndarray:
        """Show a canvas (K + 1, h, w): (h * THUMB_PX, w * THUMB_PX, 3) uint8."""
        tiles = self._tiles()
        known = torch.stack([self.dataset.canvases[n][:-1, row, col] for n, row, col in tiles])
        rows, cols = canvas.shape[1:]
        nearest = torch.cdist(canvas[:-1].flatten(1).T, known).argmin(1)
        picture = np.full((rows, THUMB_PX, cols, THUMB_PX, 3), self.prior.config.background_rgb, np.uint8)
        for row, col in np.argwhere(canvas[-1].numpy() > 0).tolist():
            picture[row, :, col] = self._thumbnail(*tiles[nearest[row * cols + col]])
        return picture.reshape(rows * THUMB_PX, cols * THUMB_PX, 3)

    def _tiles(self) -> list[tuple[int, int, int]]:
        """Choose tiles of tissue that samples are shown by: grid, row and column."""
        grids = enumerate(self.dataset.grids)
        found = [(n, row, col) for n, grid in grids for row, col in np.argwhere(grid.tissue).tolist()]
        return found[:: -(-len(found) // CANDIDATES)]

    def _thumbnail(self, number: int, row: int, col: int) -> np.ndarray:
        tile = self.dataset.grids[number].tile
        if tile is None:
            components = self.dataset.canvases[number][:3, row, col].numpy()
            return np.full((THUMB_PX, THUMB_PX, 3), (128 + 50 * components).clip(0, 255).astype(np.uint8))
        return np.asarray(Image.fromarray(tile(row, col)).resize((THUMB_PX, THUMB_PX), Image.Resampling.BOX))

    def export(self, directory: Path) -> None:
        """Write the prior's directory."""
        save_network(self.prior, directory, self.dtype)
