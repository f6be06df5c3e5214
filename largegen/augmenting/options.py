"""How images are varied. Imports nothing heavy, as options are made of it."""

from dataclasses import dataclass
from typing import Annotated

from largegen.errors import InputError
from largegen.runtime.setting import Setting


@dataclass(frozen=True)
class AugmentOptions:
    """How labelled images are varied [L, sec. 4]."""

    per_image: Annotated[int, Setting("Variations of each image.", min=1)] = 4
    mix: Annotated[
        float,
        Setting("Interpolate embeddings up to this far towards another image of the same class.", min=0.0, max=1.0),
    ] = 0.0
    stain_jitter: Annotated[
        float,
        Setting(
            "Vary the stain: embeddings move as they do where tiles are recoloured; 0.25 is much.", min=0.0, max=1.0
        ),
    ] = 0.0
    embeddings_only: Annotated[bool, Setting("Write embedding files alone, no images.")] = False
    compare: Annotated[
        bool, Setting("Compare variations with one another, and with the images of train and of other splits.")
    ] = True

    def check(self) -> None:
        """Raise InputError for embeddings that would all be alike."""
        if self.embeddings_only and not (self.mix or self.stain_jitter):
            raise InputError("`embeddings_only`: without `mix` or `stain_jitter` all variations would be the same")
