"""What an embedding file depends on: the attributes of its root, and TRIDENT's of /coords."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from largegen.embeddings.grid import SourceInfo

if TYPE_CHECKING:
    from largegen.models.tile_encoder import TileEncoder
    from largegen.slides.slide import Slide

NAMES_ON_DISK = {"dim": "width"}  # settings whose names in the file are others


@dataclass(frozen=True)
class EmbeddingSettings:
    """Everything an embedding file depends on; two files with equal settings hold equal embeddings."""

    source_name: str  # the slide's name
    source_path: str  # where it was; may move, so it is not compared
    source_kind: str  # slide, scene or image
    source_width: int  # level-0 px
    source_height: int
    source_bytes: int  # size of the file
    source_background: tuple[int, int, int]  # RGB of empty glass or of no data
    mpp: float | None  # um per level-0 px
    gsd_m: float | None  # metres per level-0 px
    crs: str | None  # of a scene, with `transform`: rasterio's a, b, c, d, e, f
    transform: tuple[float, ...] | None
    downsample: float  # level-0 px per tile px
    tile_px: int
    overlap_px: int
    region: tuple[int, int, int, int]  # row, column, rows, columns of the slide's tile grid
    tissue_filter: str  # "none", "otsu", "saturation > T", "data", or "unknown" in imported files
    encoder: str
    encoder_fingerprint: str  # of its weights; "" where it is not known: in imported files
    encoder_licence: str
    dim: int  # D of an embedding; `width` in the file
    precision: str  # what the encoder computed in, or "unknown"
    grid_xy: tuple[int, int] | None = None  # level-0 corner of the tile grid, where that is not the slide's
    imagined: str | None = None  # JSON: what a grid that is of no slide was sampled from
    mpp_from: str | None = None  # "objective" where nothing but the objective tells `mpp`

    @property
    def source(self) -> SourceInfo:
        """The slide, without what tells whether its file is still the same."""
        return SourceInfo(
            name=self.source_name,
            path=self.source_path,
            kind=self.source_kind,
            width=self.source_width,
            height=self.source_height,
            background=self.source_background,
            mpp=self.mpp,
            gsd_m=self.gsd_m,
            crs=self.crs,
            transform=self.transform,
            imagined=self.imagined,
            mpp_from=self.mpp_from,
        )

    @property
    def working_mpp(self) -> float | None:
        """Micrometres per tile px; None where unknown."""
        return None if self.mpp is None else round(self.mpp * self.downsample, 4)

    @property
    def working_gsd(self) -> float | None:
        """Metres per tile px; None where unknown."""
        return None if self.gsd_m is None else round(self.gsd_m * self.downsample, 4)

    def xy(self, row: int, col: int) -> tuple[int, int]:
        """Return the level-0 top-left corner of a tile of the slide's grid; may lie outside the slide."""
        stride = (self.tile_px - self.overlap_px) * self.downsample
        x, y = self.grid_xy or (0, 0)
        return x + round(col * stride), y + round(row * stride)

    @classmethod
    def of(
        cls,
        slide: "Slide",
        encoder: "TileEncoder",
        downsample: float,
        tile_px: int,
        overlap_px: int,
        region: tuple[int, int, int, int],
        tissue_filter: str,
        grid_xy: tuple[int, int] | None = None,
    ) -> "EmbeddingSettings":
        """Collect the settings from an open slide and an encoder.

        Args:
            slide: What is embedded.
            encoder: What embeds it.
            downsample: Level-0 px per tile px.
            tile_px: Side of a tile.
            overlap_px: Shared by neighbouring tiles.
            region: Row, column, rows, columns of the slide's tile grid.
            tissue_filter: Name of the rule by which tiles were kept.
            grid_xy: Level-0 corner of the tile grid, where that is not the slide's.
        """
        place = slide.georeference
        return cls(
            source_name=slide.name,
            source_path=str(Path(slide.path).absolute()),
            source_kind=slide.kind,
            source_width=slide.width,
            source_height=slide.height,
            source_bytes=Path(slide.path).stat().st_size,
            source_background=as_colour(slide.background),
            mpp=slide.mpp,
            gsd_m=slide.gsd_m,
            crs=place.crs if place else None,
            transform=tuple(float(v) for v in place.transform) if place else None,
            downsample=float(downsample),
            tile_px=tile_px,
            overlap_px=overlap_px,
            region=region,
            tissue_filter=tissue_filter,
            encoder=encoder.spec.name,
            encoder_fingerprint=encoder.fingerprint,
            encoder_licence=encoder.spec.licence,
            dim=encoder.dim,
            precision=str(encoder.dtype).removeprefix("torch."),
            grid_xy=grid_xy,
            mpp_from=slide.mpp_from,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "EmbeddingSettings":
        """Read the attributes of a file: the inverse of `as_dict`.

        Raises:
            KeyError: For one that is missing.
            ValueError: For one that cannot be.
        """
        optional = ("mpp", "gsd_m", "crs", "transform", "grid_xy", "imagined", "mpp_from")
        found: dict[str, Any] = {}
        for field in cls.__dataclass_fields__:
            key = NAMES_ON_DISK.get(field, field)
            value = values.get(key) if field in optional else values[key]
            found[field] = tuple(value) if isinstance(value, list) else value
            if not _is(found[field], KINDS[field]):
                raise ValueError(f"the attribute {key} is {value!r}")
        settings = cls(**found)
        if not (0 <= settings.overlap_px < settings.tile_px and 0 < settings.downsample < math.inf):
            raise ValueError("its tiles have no size")
        return settings

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes of the file, without what is not known."""
        return {NAMES_ON_DISK.get(k, k): v for k, v in asdict(self).items() if v is not None}

    def difference(self, other: "EmbeddingSettings") -> str | None:
        """Name the first setting in which `other` would give other embeddings; None if there is none."""
        for key, value in asdict(self).items():
            if key not in ("source_path", "mpp_from") and getattr(other, key) != value:
                return f"{key} {value} against {getattr(other, key)}"
        return None


def trident_attributes(
    path: Path, settings: EmbeddingSettings, magnification: float | None, mag: float | None
) -> dict[str, Any]:
    """Return TRIDENT's attributes of /coords.

    Args:
        path: The embedding file.
        settings: What it depends on.
        magnification: Of the slide's level 0; None, which is left out, where unknown.
        mag: Of the tiles, as the user asked for; None likewise.
    """
    known = {"level0_magnification": magnification, "target_magnification": mag}
    return {
        "patch_size": settings.tile_px,
        "patch_size_level0": round(settings.tile_px * settings.downsample),
        "overlap": settings.overlap_px,
        "name": settings.source_name,
        "savetodir": str(path.parent),
        "level0_width": settings.source_width,
        "level0_height": settings.source_height,
    } | {key: int(value) if value == int(value) else value for key, value in known.items() if value}


def as_colour(values: Iterable[Any]) -> tuple[int, int, int]:
    """Return a colour (red, green, blue) as plain numbers."""
    red, green, blue = (int(v) for v in values)
    return red, green, blue


KINDS = get_type_hints(EmbeddingSettings)


def _is(value: object, kind: Any) -> bool:
    """Tell whether a value is of the kind that a field is declared as; whole numbers are of floating point too."""
    inside = get_args(kind)
    if get_origin(kind) is UnionType:
        return any(_is(value, one) for one in inside)
    if get_origin(kind) is tuple:
        of = inside[:1] * len(value) if isinstance(value, tuple) and inside[-1] is ... else inside
        return isinstance(value, tuple) and len(of) == len(value) and all(map(_is, value, of))
    return isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
