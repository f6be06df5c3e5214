"""What a generated image says of itself: where it lies, and all that made it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from largegen.sampling.settings import Sampling
from largegen.slides.image_info import Georeference, ImageInfo
from largegen.version import __version__

if TYPE_CHECKING:
    from largegen.conditioning.area import ImageArea
    from largegen.embeddings.grid import EmbeddingGrid
    from largegen.models.model import Model


@dataclass(frozen=True)
class Provenance:
    """What made an image: the fields are the keys of the record in its file; None: not in the record."""

    command: str | None = None  # that made it
    model: str | None = None  # its name
    model_licence: str | None = None
    encoder: str | None = None  # its name
    encoder_licence: str | None = None
    licence: str | None = None  # of the image: those of model and encoder
    reference: str | None = None  # the name of the slide, scene or embedding file
    imagined: dict[str, Any] | None = None  # prior, condition and seed of invented embeddings; or how they vary
    reference_xy: tuple[int, int] | None = None  # the image's corner, level-0 px; None: a sheet lies nowhere
    reference_downsample: float | None = None  # level-0 px per px of an image at the base magnification
    unlike_tiles: int | None = None  # of the reference, unlike all that the model was trained on; None: not known
    tile_px: int | None = None  # side of a window's image
    latent_px: int | None = None  # px per latent
    seed: int | None = None
    sampling: dict[str, Any] | None = None  # settings.Sampling but the seed, defaults filled in
    zoom: dict[str, Any] | None = None  # settings.Zooming of an image of `zoom`
    upscale: dict[str, Any] | None = None  # factor, and settings.Inversion, of an image of `upscale`
    edit: dict[str, Any] | None = None  # what was made anew, and how, of an image of `edit` or `grow`
    warning: str | None = None  # what the image must not be taken for
    level: int | None = None  # magnification level of a patch or a downsampled image; None: an image at the base
    guide: bool | None = None  # whether a downsampled image is the guide
    magnification: str | None = None  # of a sheet's patches: "10x"
    patches: int | None = None  # on a sheet
    job: str | None = None  # tells apart all that the image depends on: the same job need not be done again
    precision: str | None = None  # of the networks: float32, bfloat16 or float16
    versions: dict[str, str] | None = None  # of largegen, torch and diffusers

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> "Provenance":
        """Read a record, as `read_provenance` gives it; keys of other versions are left out."""
        found = {field.name: record[field.name] for field in fields(cls) if field.name in record}
        if "reference_xy" in found:
            x, y = found["reference_xy"]
            found["reference_xy"] = (x, y)
        return cls(**found)

    def settings(self) -> Sampling:
        """Return how the canvas was sampled, defaults filled in."""
        known = {field.name for field in fields(Sampling)}
        values = {name: value for name, value in (self.sampling or {}).items() if name in known}
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return Sampling(**{"distilled": False} | values, seed=self.seed or 0)  # earlier versions knew no students

    def record(self) -> dict[str, Any]:
        """Return the keys and JSON values that image files carry."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.reference_xy is not None:
            found["reference_xy"] = list(self.reference_xy)
        return {name: value for name, value in found.items() if value is not None}


def image_info(
    model: "Model",
    grid: "EmbeddingGrid",
    area: "ImageArea",
    sampling: Sampling,
    command: str,
    unlike: int | None = None,
    **more: Any,
) -> ImageInfo:
    """Describe an image: resolution and place are its reference's.

    Args:
        model: that made it.
        grid: the embeddings under the image.
        area: of the image on the reference.
        sampling: as `generate.resolve_defaults` gives it.
        command: that made it.
        unlike: as `count_unlike` gives it.
        more: further fields of `Provenance`.
    """
    import diffusers
    import torch

    source, scale = grid.source, grid.downsample
    place = None
    if source.transform:
        a, b, c, d, e, f = source.transform
        x, y = grid.origin_xy
        transform = (a * scale, b * scale, a * x + b * y + c, d * scale, e * scale, d * x + e * y + f)
        place = Georeference(source.crs or "", transform)
    info, imagined = model.info, json.loads(source.imagined) if source.imagined else {}
    invented = bool(imagined) and "varied_from" not in imagined  # else it is the reference's, but for what is said
    licences = {info.licence, grid.licence, *([imagined["prior_licence"]] if invented else [])}
    made_by = Provenance(
        command=command,
        model=info.name,
        model_licence=info.licence,
        encoder=info.encoder,
        encoder_licence=grid.licence,
        licence=" and ".join(sorted(licences)),
        reference=None if invented else source.name,
        imagined=imagined or None,
        reference_xy=None if invented else grid.origin_xy,
        reference_downsample=scale,
        unlike_tiles=unlike,
        tile_px=model.tile_px,
        latent_px=model.factor,
        seed=sampling.seed,
        sampling={
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(sampling).items()
            if name != "seed"
        },
        precision=str(model.dtype).removeprefix("torch."),
        versions={"largegen": __version__, "torch": torch.__version__, "diffusers": diffusers.__version__},
        **more,
    )
    return ImageInfo(
        width=area.width,
        height=area.height,
        mpp=source.mpp and source.mpp * scale,
        gsd_m=source.gsd_m and source.gsd_m * scale,
        mpp_from=source.mpp_from,
        georeference=place,
        description=f"synthetic image by largegen {__version__}, "
        + (f"imagined: {source.name}" if invented else f"after {source.name}"),
        provenance=made_by.record(),
    )
