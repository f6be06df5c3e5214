"""Which of a denoiser's activations are features. Imports nothing heavy, as options are made of it.

The defaults are those that told most in docs/measurements.md, "Features".
"""

from dataclasses import dataclass
from typing import Annotated

from largegen.errors import InputError
from largegen.runtime.setting import SEED, Setting

CONDITIONS = ("own", "null")
LAST = "last"  # block of the way up


@dataclass(frozen=True)
class FeatureOptions:
    """Which activations are taken; the papers do not say theirs."""

    block: Annotated[
        str,
        Setting("Block of the denoiser: down0, down1, ..., mid, up0 (the coarsest), up1, ..., or the last of these."),
    ] = LAST
    timestep: Annotated[int, Setting("How noisy the tile is that the denoiser sees, of 1000.", min=0, max=999)] = 61
    noises: Annotated[int, Setting("Draws of noise that are averaged.", min=1)] = 1
    condition: Annotated[
        str, Setting("own: the embeddings of the tile itself; null: none, which needs no encoder.")
    ] = "own"
    seed: Annotated[int, SEED] = 0

    def check(self) -> None:
        """Raise InputError for a condition that there is not."""
        if self.condition not in CONDITIONS:
            raise InputError(f"`condition` {self.condition}: {' or '.join(CONDITIONS)}")
