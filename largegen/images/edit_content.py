"""What to put into a part of an image, as it is asked for: files and conditions to embeddings."""

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from largegen.conditioning.suitable import check_embeddings
from largegen.embeddings.directions import Directions
from largegen.embeddings.file import EmbeddingFile
from largegen.errors import InputError
from largegen.models.directory import PRIOR
from largegen.models.model import Model
from largegen.sampling.content import Content, check_prior, from_donor, imagined, moved, surroundings
from largegen.sampling.imagine import condition_of, find_prior
from largegen.sampling.settings import Imagining
from largegen.slides.slide import Slide

log = logging.getLogger(__name__)

NOTHING = Imagining()
NEAR = 0.1  # part by which a resolution may differ from the model's before it is said


@dataclass(frozen=True)
class EditRequest:
    """A request for what a part of an image shall show; nothing: what goes with its surroundings."""

    donor: Path | None = None  # embedding file of another slide
    at: str | None = None  # ROW,COLUMN of its tile
    imagining: Imagining = NOTHING
    moves: tuple[str, ...] = ()  # NAME=AMOUNT
    directions: Path | None = None  # .npz

    def check(self) -> None:
        """Raise InputError for texts that cannot be read."""
        self._at()
        for one in self.moves:
            _move(one)

    def _at(self) -> tuple[int, int]:
        match = re.fullmatch(r"(\d+),(\d+)", (self.at or "0,0").replace(" ", ""))
        if not match:
            raise InputError(f"`at` {self.at}: give ROW,COLUMN of a tile")
        return int(match[1]), int(match[2])

    def content(self, model: Model, seed: int, progress: bool = False) -> tuple[Content, dict[str, Any]]:
        """Open what is asked for.

        Args:
            model: Whose embeddings they are.
            seed: Of what is sampled from a prior.
            progress: Show a progress bar.

        Returns:
            What gives the new embeddings, and what to say of it.

        Raises:
            InputError: For files and names that are not there, and a condition that the prior does not know.
            EmbeddingFileError: For a donor that does not suit the model.
        """
        if self.donor is not None:
            row, col = self._at()
            file = EmbeddingFile(self.donor)
            check_embeddings(model, file)
            grid = file.grid()
            return from_donor(grid.features, row, col), {"from": grid.source.name, "at": [row, col]}
        if self.moves:
            path = self.directions or Path()
            directions = Directions.read(path)
            directions.check(model.info.encoder, model.info.encoder_fingerprint, path)
            known = directions.ways
            steps = []
            for name, amount in map(_move, self.moves):
                if name not in known:
                    raise InputError(f"`move` {name}: {path} has {', '.join(known) or 'none'}")
                steps.append((known[name], amount))
            return moved(steps), {"move": list(self.moves), "directions": str(path)}
        asked = self.imagining
        own = model.directory is not None and (model.directory / PRIOR).is_dir()
        if asked.label is None and asked.prompt is None and asked.prior is None and not own:
            log.info("model %s has no prior: what to put there is the mean of what is around", model.info.name)
            return surroundings, {"content": "mean of the surroundings"}
        prior = find_prior(model, asked)
        check_prior(model, prior)
        condition_of(prior, asked)
        about: dict[str, Any] = {"prior": prior.info.name, "prior_licence": prior.info.licence, "label": asked.label}
        about |= {"prompt": asked.prompt, "prior_guidance": asked.prior_guidance, "prior_steps": asked.prior_steps}
        return imagined(prior, asked, seed, progress), {k: v for k, v in about.items() if v is not None}

    @staticmethod
    def warn_of_scale(model: Model, slide: Slide) -> None:
        """Say where an image is not at the resolution that a model makes."""
        mpp, gsd = model.mpp, model.info.base_gsd
        own = {"um": mpp, "m": gsd}.get(slide.scale.unit)
        if own is None or abs(slide.scale.size / own - 1) > NEAR:
            made = f"{mpp:.3g} um/px" if mpp else f"{gsd:.3g} m/px" if gsd else "images of no known resolution"
            log.warning("%s: %s, but model %s makes %s", slide.path, slide.scale, model.info.name, made)


def _move(text: str) -> tuple[str, float]:
    name, _, amount = text.rpartition("=")
    try:
        far = float(amount)
    except ValueError:
        far = float("nan")
    if not name or not np.isfinite(far):
        raise InputError(f"`move` {text}: give NAME=AMOUNT, such as tumour=+0.3")
    return name, far
