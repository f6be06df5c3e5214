"""How features are probed. Imports nothing heavy, as options are made of it."""

from dataclasses import dataclass
from typing import Annotated

from largegen.errors import InputError
from largegen.runtime.setting import SEED, Setting

UNITS = ("slide", "tile")


@dataclass(frozen=True)
class ProbeOptions:
    """How features are probed."""

    unit: Annotated[
        str,
        Setting("What is classified: each `slide` by the mean of its tiles and by attention (mil), or each `tile`."),
    ] = "slide"
    folds: Annotated[int, Setting("Parts of the cross-validation, where the labels file has no split.", min=2)] = 5
    tiles: Annotated[int, Setting("Tiles of a slide at most, drawn at random.", min=1)] = 2000
    epochs: Annotated[int, Setting("Rounds of training of the attention.", min=1)] = 40
    seed: Annotated[int, SEED] = 0

    def check(self) -> None:
        """Raise InputError for a unit that there is not."""
        if self.unit not in UNITS:
            raise InputError(f"`unit` {self.unit}: {' or '.join(UNITS)}")
