"""What is known of an embedding file of another project: from the file itself, the user and the slide."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from largegen.embeddings.convert.grid_fit import TileSize
from largegen.embeddings.convert.layouts import TileMetadata
from largegen.errors import InputError
from largegen.models.encoder_registry import EncoderSpec
from largegen.slides.resolution import Resolution, check_positive, mpp_of

if TYPE_CHECKING:
    from largegen.slides.slide import Slide


@dataclass(frozen=True)
class ImportOptions:
    """What the user says of a file; None leaves it to the file.

    Raises:
        InputError: For a resolution that is not positive.
    """

    encoder: str | None = None  # name of the encoder of the embeddings
    embedding_dim: int | None = None  # their width, of an encoder that is not known here
    dataset: str | None = None  # path of the embeddings inside the file
    tile_px: int | None = None
    overlap_px: int | None = None
    mag: float | None = None  # of the tiles: 20 is 0.5 um per px
    mpp: float | None = None  # um per tile px
    gsd: float | None = None  # metres per tile px
    source_mag: float | None = None  # of level 0
    source_mpp: float | None = None  # um per level-0 px
    source_gsd: float | None = None  # metres per level-0 px

    def __post_init__(self) -> None:
        for name in ("mag", "mpp", "gsd", "source_mag", "source_mpp", "source_gsd"):
            check_positive(name, getattr(self, name))


@dataclass(frozen=True)
class ImportFacts:
    """All that is known of a file; where user and file both say a thing, the user's word counts."""

    path: Path
    options: ImportOptions
    slide: "Slide | None"  # that the embeddings are of
    spec: EncoderSpec
    metadata: TileMetadata = field(default_factory=TileMetadata)

    @property
    def kind(self) -> str:
        """Slide, scene or image: as the slide is, else by the unit of the resolutions."""
        if self.slide:
            return self.slide.kind
        in_metres = self.options.gsd or self.options.source_gsd or "_dino_" in self.path.name
        return "scene" if in_metres else "slide"

    @property
    def mag(self) -> float | None:
        """Magnification of the tiles."""
        return _first(self.options.mag, self.metadata.mag)

    @property
    def source_mag(self) -> float | None:
        """Magnification of level 0."""
        return self.slide.magnification if self.slide else self._source_mag

    @property
    def _source_mag(self) -> float | None:
        return _first(self.options.source_mag, self.metadata.source_mag)

    @property
    def _source_mpp(self) -> float | None:
        return self.options.source_mpp or (mpp_of(self._source_mag) if self._source_mag else None)

    @property
    def downsample(self) -> float | None:
        """Level-0 px per tile px by the user's words; None where they do not tell."""
        mag, mpp, gsd = self.options.mag, self.options.mpp, self.options.gsd
        if mag is None and mpp is None and gsd is None:
            return None
        if self.slide:
            return self.slide.downsample_for(mag=mag, mpp=mpp, gsd_m=gsd)
        own = self.options.source_gsd if gsd else self._source_mpp
        wanted = Resolution(mpp, mag, gsd).scale()
        return wanted.size / own if own and wanted else None

    def mpp(self, downsample: float) -> float | None:
        """Return the micrometres per level-0 px; those of the tiles tell it where level 0's are not known."""
        if self.slide:
            return self.slide.mpp
        if self.kind == "scene":
            return None
        tiles = self.options.mpp or (mpp_of(self.mag) if self.mag else None)
        return self._source_mpp or (tiles / downsample if tiles else None)

    @property
    def mpp_from(self) -> str | None:
        """As `Slide.mpp_from`: "objective" where magnifications alone tell the resolution."""
        if self.slide:
            return self.slide.mpp_from
        stated = self.kind == "scene" or self.options.source_mpp or self.options.mpp
        return "objective" if not stated and (self._source_mag or self.mag) else None

    def gsd_m(self, downsample: float) -> float | None:
        """Return the metres per level-0 px."""
        if self.slide:
            return self.slide.gsd_m
        return self.options.source_gsd or (self.options.gsd and self.options.gsd / downsample)

    def tile_size(self) -> TileSize:
        """Return what is known of the tiles' size.

        Raises:
            InputError: Where file and user do not agree.
        """
        _agreed(self.path, "mag", self.metadata.mag, self.options.mag)
        tile_px = _agreed(self.path, "tile_px", self.metadata.tile_px, self.options.tile_px)
        overlap_px = _agreed(self.path, "overlap_px", self.metadata.overlap_px, self.options.overlap_px)
        return TileSize(
            tile_px=None if tile_px is None else int(tile_px),
            overlap_px=None if overlap_px is None else int(overlap_px),
            level0_px=self.metadata.level0_px,
            downsample=self.downsample,
        )


def _agreed(path: Path, name: str, found: float | None, given: float | None) -> float | None:
    if found is not None and given is not None and found != given:
        raise InputError(f"{path}: says {found:g}, but `{name}` {given:g}")
    return _first(given, found)


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)
