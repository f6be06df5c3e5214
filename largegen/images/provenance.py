"""What a generated image says of itself: where it lies, and all that made it."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import diffusers
import torch

from largegen.conditioning.area import ImageArea
from largegen.embeddings.grid import EmbeddingGrid
from largegen.models.model import Model
from largegen.sampling.settings import Sampling
from largegen.slides.image_info import Georeference, ImageInfo
from largegen.version import __version__


def image_info(
    model: Model,
    grid: EmbeddingGrid,
    area: ImageArea,
    sampling: Sampling,
    command: str,
    more: Mapping[str, Any] | None = None,
) -> ImageInfo:
    """What the image says of itself: resolution and place as its reference's, and all that made it.

    more: what else made it, JSON values.
    """
    source, scale = grid.source, grid.downsample
    place = None
    if source.crs:
        a, b, c, d, e, f = source.transform
        x, y = grid.origin_xy
        transform = (a * scale, b * scale, a * x + b * y + c, d * scale, e * scale, d * x + e * y + f)
        place = Georeference(source.crs, transform)
    info = model.info
    return ImageInfo(
        width=area.width,
        height=area.height,
        mpp=source.mpp and source.mpp * scale,
        gsd_m=source.gsd_m and source.gsd_m * scale,
        georeference=place,
        description=f"synthetic image by largegen {__version__}, after {source.name}",
        provenance={
            "command": command,
            "model": info.name,
            "model_licence": info.licence,
            "encoder": info.encoder,
            "encoder_licence": grid.licence,
            "licence": " and ".join(sorted({info.licence, grid.licence})),
            "reference": source.name,
            "reference_xy": list(grid.origin_xy),
            "reference_downsample": scale,
            "tile_px": model.tile_px,
            "latent_px": model.factor,
            "seed": sampling.seed,
            "sampling": {name: value for name, value in asdict(sampling).items() if name != "seed"},
            **(more or {}),
            "precision": str(model.dtype).removeprefix("torch."),
            "versions": {"largegen": __version__, "torch": torch.__version__, "diffusers": diffusers.__version__},
        },
    )
