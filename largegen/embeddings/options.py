"""How slides are embedded. Imports nothing heavy, as options are made of it."""

from dataclasses import dataclass
from typing import Annotated

from largegen.runtime.setting import Setting

TISSUE_THRESHOLD = Setting("Colour saturation above which a pixel is tissue.", min=0.0, max=1.0, unset="Otsu's")
TISSUE_FILTER = Setting("Take every tile, including empty glass and no data.")


@dataclass(frozen=True)
class EmbedOptions:
    """How slides are embedded: their tiles, which of them count as tissue, and how the work is done."""

    tile_px: int = 256  # side of a tile, in px at the working resolution
    overlap_px: int = 0  # shared by neighbouring tiles, in the same px
    tissue_threshold: Annotated[float | None, TISSUE_THRESHOLD] = None
    tissue_filter: Annotated[bool, TISSUE_FILTER] = True  # False: every tile is embedded
    batch_size: Annotated[int, Setting("Tiles per batch.", min=1)] = 32
    workers: Annotated[int, Setting("Threads that read tiles ahead of the network.", min=0)] = 2
    grid_xy: tuple[int, int] | None = None  # level-0 corner of the tile grid; None: the slide's
