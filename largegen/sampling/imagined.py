"""A reference that is of no slide: a grid of embeddings that is sampled from a prior."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from largegen.conditioning.area import check_size
from largegen.conditioning.reference import Reference, grid_reference
from largegen.conditioning.suitable import check_settings, warn_of_resolution
from largegen.models.directory import BUNDLED, PRIOR
from largegen.models.grid_prior import load_prior
from largegen.models.model import Model
from largegen.runtime.distributed import process_group, run_on_main
from largegen.runtime.files import read_config
from largegen.sampling.imagine import condition_of, find_prior, grid_of, grid_settings, imagine_grid
from largegen.sampling.settings import Imagining


@dataclass(frozen=True)
class ImaginedOptions:
    """A request for a reference that is sampled from a prior; as conditioning.open_reference.ReferenceOptions."""

    imagining: Imagining
    seed: int
    size: tuple[int, int]  # (width, height) of the image in px
    outline: bool = False  # nothing is sampled: a reference of zeros that is all tissue, to estimate by

    @property
    def name(self) -> str:
        """A name for the output."""
        return self.imagining.name

    def choose_model(self, name: str) -> str:
        """Name the bundled model that suits prior or label, where `name` is `auto`: aerial for scenes, else tissue."""
        if name != "auto":
            return name
        if self.imagining.prior is not None:
            return "aerial" if load_prior(self.imagining.prior, "cpu").config.kind == "scene" else "tissue"
        places = read_config(BUNDLED["aerial"] / PRIOR / "config.json")["labels"]
        return "aerial" if self.imagining.label in places else "tissue"

    def open(self, stack: ExitStack, model: Model, progress: bool = False) -> Reference:
        """Sample the embeddings under an image and take them as its reference; one process samples for all.

        Args:
            stack: Not needed.
            model: The model to condition.
            progress: Show a progress bar.

        Raises:
            InputError: For a condition that the prior does not know, and where there is no prior.
            EmbeddingFileError: For a prior whose embeddings are not the model's.
        """
        prior = find_prior(model, self.imagining)
        check_size(self.size, model)
        cols, rows = (-(-side // model.tile_px) for side in self.size)
        settings = grid_settings(prior, self.imagining, rows, cols, self.seed)
        path = self.imagining.prior or Path(PRIOR)
        check_settings(model, settings, path)
        warn_of_resolution(model.info, settings, path)
        if self.outline:
            condition_of(prior, self.imagining)
            shape = rows, cols, prior.config.embedding_dim
            return grid_reference(grid_of(prior, settings, np.zeros(shape, np.float32), np.ones((rows, cols), bool)))
        return grid_reference(
            run_on_main(
                process_group(model.device),
                lambda: imagine_grid(prior, self.imagining, settings, self.seed, progress=progress),
            )
        )
