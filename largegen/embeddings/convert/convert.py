"""Embedding files of other projects (see layouts.py) -> embedding files of this one.

What a file does not say stays unknown: the weights of its encoder (`encoder_fingerprint` is ""), how tissue was found
and, unless it or the user gives one, its resolution.
"""

import functools
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from largegen.embeddings.convert.arrays import open_arrays
from largegen.embeddings.convert.grid_fit import TileLayout, TileSize, find_grid
from largegen.embeddings.convert.layouts import as_grid, choose, encoder_name, tile_metadata
from largegen.embeddings.file import FORMAT, Settings, trident_attributes, write_embeddings
from largegen.errors import InputError, OutputError
from largegen.models.encoder import encoder_spec, load_encoder
from largegen.models.encoder_registry import EncoderSpec
from largegen.runtime.files import atomic
from largegen.runtime.lock import lock
from largegen.slides.slide import WHITE
from largegen.slides.tiles import TileGrid

if TYPE_CHECKING:
    from largegen.slides.slide import Slide

log = logging.getLogger(__name__)

BLACK = (0, 0, 0)  # of a scene, where there is no data
MAX_CORNER_PX = 2**31  # level-0 px that a tile may lie from the slide's corner
MAX_TILES = 10**8  # tiles that a grid may have: a hundred times those of a large slide


@dataclass(frozen=True)
class ImportOptions:
    """What the user says of a file; None leaves it to the file."""

    encoder: str | None = None
    dataset: str | None = None  # path of the embeddings inside the file
    tile_px: int | None = None
    overlap_px: int | None = None
    mag: float | None = None  # of the tiles: 20 is 0.5 um per px
    mpp: float | None = None  # um per tile px
    gsd: float | None = None  # metres per tile px
    source_mag: float | None = None  # of level 0
    source_mpp: float | None = None  # um per level-0 px
    source_gsd: float | None = None  # metres per level-0 px

    def __post_init__(self):
        for name in ("mag", "mpp", "gsd", "source_mag", "source_mpp", "source_gsd"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise InputError(f"`{name}` {value}: must be a positive number")


@dataclass(frozen=True)
class ImportedEmbeddings:
    """A file's embeddings in their places; that of the background is not among them."""

    settings: Settings
    features: np.ndarray  # (N, D) float32
    coords: np.ndarray  # (N, 2) int64: level-0 top-left corners (x, y)
    magnifications: tuple[float | None, float | None]  # of level 0, and of the tiles
    spec: EncoderSpec

    @property
    def missing(self) -> int:
        """Tiles of the grid that the file does not have."""
        return math.prod(self.settings.region[2:]) - len(self.features)


def import_embeddings(
    path: Path,
    out: Path,
    given: ImportOptions | None = None,
    *,
    slide: "Slide | None" = None,
    encoder_weights: Path | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Turn a file of another project into `<out>/<name>.h5`, the name being the slide's or the file's, and return that.

    slide: what the embeddings are of; it gives name, size, resolution and place. encoder_weights: a file, for the
    embedding of the background, which such files lack; the bundled encoder and local-dir: need none. Without weights
    the mean of the file's embeddings stands for it and for every tile that the file lacks, which a warning says.

    Raises InputError as `read_import` does, ModelError for weights that do not fit, LockedError while another process
    writes the file and OutputError for one that exists (unless `overwrite`).
    """
    target = import_path(path, out, slide)
    found = read_import(path, given, slide=slide)
    with lock(target):
        if target.exists() and not overwrite:
            raise OutputError(f"{target}: exists already; use `overwrite` or choose another `out`")
        background = _background(found, encoder_weights, device, path)
        attributes = trident_attributes(target, found.settings, *found.magnifications)
        with atomic(target) as temporary:
            write_embeddings(temporary, found.settings, found.coords, found.features, background, attributes)
    return target


def import_path(path: Path, out: Path, slide: "Slide | None" = None) -> Path:
    """Where a file's embeddings go. Raises InputError where that is the file itself."""
    target = Path(out) / f"{slide.name if slide else Path(path).stem}.h5"
    if target.exists() and Path(path).exists() and target.samefile(path):
        raise InputError(f"{path}: would be replaced by what is made of it; choose another `out`")
    return target


def read_import(path: Path, given: ImportOptions | None = None, *, slide: "Slide | None" = None) -> ImportedEmbeddings:
    """Read a file of another project and find out all that can be known of it.

    Raises InputError for a file that is damaged, holds no embeddings of its encoder or is not laid out as a grid, and
    where it, the user and the slide do not agree.
    """
    path, given = Path(path), given or ImportOptions()
    with open_arrays(path) as found:
        if found.attributes.get("", {}).get("format") == FORMAT:
            raise InputError(f"{path}: an embedding file of largegen already; use it as it is")
        spec = encoder_spec(encoder_name(found, given.encoder, path))
        name = choose(found, given.dataset, spec, path)
        with np.errstate(over="ignore"):  # of float64: found below
            values = found.arrays[name][()].astype(np.float32)
        coords = found.arrays["coords"][()] if name == "features" and "coords" in found.arrays else None
        if coords is None and "coords" in found.attributes:
            raise InputError(f"{path}: its coords are no numbers")
        metadata = tile_metadata(found.attributes.get("coords", {}))
    if not values.size:
        raise InputError(f"{path}: holds no embedding")
    if not np.isfinite(values).all():
        raise InputError(f"{path}: holds values that are not finite (NaN or infinite)")
    if coords is None:
        grid = as_grid(values, found.kind, spec, path)
        features, place = grid.reshape(-1, spec.dim), _whole_grid(grid.shape[:2], given, slide, path)
    else:
        features, place = _tiles(values, coords, metadata, given, slide, spec, path)
    settings = _settings(place, metadata, given, slide, spec, path)
    magnifications = slide.magnification if slide else _first(given.source_mag, metadata["level0_magnification"])
    magnifications = (magnifications, _first(given.mag, metadata["target_magnification"]))
    return ImportedEmbeddings(settings, features, place.coords, magnifications, spec)


def _whole_grid(shape: tuple[int, int], given: ImportOptions, slide: "Slide | None", path: Path) -> TileLayout:
    """The places of rows x columns tiles from the slide's corner on."""
    downsample = _asked(given, slide, {})
    if slide and downsample is None:
        raise InputError(f"{path}: does not say at what resolution it shows {slide.path}; give `mag`, `mpp` or `gsd`")
    tile_px, overlap_px = given.tile_px or 256, given.overlap_px or 0
    if overlap_px >= tile_px:
        raise InputError(f"tiles of {tile_px} px with an overlap of {overlap_px} px: must be 0 <= overlap < tile")
    grid = TileGrid(downsample or 1.0, *shape, tile_px, overlap_px)
    cells = np.argwhere(np.ones(shape, bool))
    return TileLayout(tile_px, overlap_px, grid.downsample, None, cells, grid.coords, np.arange(len(cells)), 0.0)


def _tiles(
    features: np.ndarray,
    coords: np.ndarray,
    metadata: dict[str, Any],
    given: ImportOptions,
    slide: "Slide | None",
    spec: EncoderSpec,
    path: Path,
) -> tuple[np.ndarray, TileLayout]:
    """Tiles with their corners => (N, D) and their places."""
    features, coords = (a[0] if a.ndim == 3 and len(a) == 1 else a for a in (features, coords))  # 1ND => ND
    if features.ndim != 2 or features.shape[1] != spec.dim or coords.shape != (len(features), 2):
        raise InputError(
            f"{path}: features {features.shape} and coords {coords.shape} do not fit together, or not {spec.name}"
            f" ({spec.dim} dimensions)"
        )
    if not np.isfinite(coords).all() or coords.min() < 0 or coords.max() > MAX_CORNER_PX:
        raise InputError(f"{path}: its coords are no places on a slide")
    _agreed(path, "`mag`", metadata["target_magnification"], given.mag)
    size = TileSize(
        _agreed(path, "`tile_px`", metadata["patch_size"], given.tile_px),
        _agreed(path, "`overlap_px`", metadata["overlap"], given.overlap_px),
        metadata["patch_size_level0"],
        _asked(given, slide, metadata),
    )
    place = find_grid(np.rint(coords).astype(np.int64), size, str(path))
    lost = len(coords) - len(place.kept)
    if place.moved_px or lost:
        log.warning(
            "%s: of its %d tiles, %d were left out, as another is as near to their place, and the others lie up to %d"
            " level-0 px off one grid, to which they were moved",
            *(path, len(coords), lost, round(place.moved_px)),
        )
    return features[place.kept], place


def _settings(
    place: TileLayout,
    metadata: dict[str, Any],
    given: ImportOptions,
    slide: "Slide | None",
    spec: EncoderSpec,
    path: Path,
) -> Settings:
    level0_px, grid_xy = place.tile_px * place.downsample, np.array(place.grid_xy or (0, 0))
    stride = (place.tile_px - place.overlap_px) * place.downsample
    size = (slide.width, slide.height) if slide else (metadata["level0_width"], metadata["level0_height"])
    reach = np.rint(place.cells.max(axis=0)[::-1] * stride + grid_xy + level0_px).astype(int)  # (x, y)
    if slide and None not in (metadata["level0_width"], metadata["level0_height"]):
        other = int(metadata["level0_width"]), int(metadata["level0_height"])
        if other != size:
            raise InputError(
                f"{path}: of a slide of {other[0]}x{other[1]} px, but {slide.path} has {size[0]}x{size[1]}"
            )
    if None in size:
        size = tuple(int(v) for v in reach)
    elif (reach - level0_px >= size).any():
        raise InputError(f"{path}: its tiles reach {reach[0]},{reach[1]}, off a slide of {size[0]:g}x{size[1]:g} px")
    whole = np.floor((np.array(size) - grid_xy - level0_px) / stride + 1e-6).astype(int) + 1  # tiles in the slide
    columns, rows = np.maximum(whole, place.cells.max(axis=0)[::-1] + 1)
    if float(columns) * float(rows) > MAX_TILES:
        raise InputError(f"{path}: a grid of {rows}x{columns} tiles: its coords or what it says of them must be wrong")
    in_metres = given.gsd or given.source_gsd or "_dino_" in path.name
    kind = slide.kind if slide else "scene" if in_metres else "slide"
    geo = slide.georeference if slide else None
    return Settings(
        source_name=slide.name if slide else path.stem,
        source_path=str(Path(slide.path if slide else path).absolute()),
        source_kind=kind,
        source_width=int(size[0]),
        source_height=int(size[1]),
        source_bytes=Path(slide.path if slide else path).stat().st_size,
        source_background=tuple(int(v) for v in slide.background) if slide else BLACK if kind == "scene" else WHITE,
        mpp=slide.mpp if slide else None if kind == "scene" else _mpp(given, metadata, place.downsample),
        gsd_m=slide.gsd_m if slide else given.source_gsd or (given.gsd and given.gsd / place.downsample),
        crs=geo.crs if geo else None,
        transform=tuple(float(v) for v in geo.transform) if geo else None,
        downsample=float(place.downsample),
        tile_px=place.tile_px,
        overlap_px=place.overlap_px,
        region=(0, 0, int(rows), int(columns)),
        tissue_filter="none" if len(place.cells) == rows * columns else "unknown",
        encoder=spec.name,
        encoder_fingerprint="",
        encoder_licence=spec.licence,
        dim=spec.dim,
        precision="unknown",
        grid_xy=place.grid_xy,
    )


def _asked(given: ImportOptions, slide: "Slide | None", metadata: dict[str, Any]) -> float | None:
    """Level-0 px per tile px by the user's words, None where they do not tell."""
    if given.mag is None and given.mpp is None and given.gsd is None:
        return None
    if slide:
        return slide.downsample_for(mag=given.mag, mpp=given.mpp, gsd_m=given.gsd)
    own = given.source_gsd if given.gsd else _source_mpp(given, metadata)
    return (given.gsd or given.mpp or 10 / given.mag) / own if own else None


def _source_mpp(given: ImportOptions, metadata: dict[str, Any]) -> float | None:
    mag = _first(given.source_mag, metadata.get("level0_magnification"))
    return given.source_mpp or (10 / mag if mag else None)


def _mpp(given: ImportOptions, metadata: dict[str, Any], downsample: float) -> float | None:
    """um per level-0 px as the user or the file says, else by what they say of the tiles."""
    mag = _first(given.mag, metadata["target_magnification"])
    tiles = given.mpp or (10 / mag if mag else None)
    return _source_mpp(given, metadata) or (tiles / downsample if tiles else None)


def _agreed(path: Path, flag: str, metadata: float | None, given: float | None) -> Any:
    if metadata is not None and given is not None and metadata != given:
        raise InputError(f"{path}: says {metadata:g}, but {flag} {given:g}")
    return _first(given, metadata)


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _background(found: ImportedEmbeddings, weights: Path | None, device: str, path: Path) -> np.ndarray:
    """(D,) float32: as `largegen embed` computes it where weights are at hand, else the mean of what there is."""
    s = found.settings
    if weights or found.spec.source.startswith("local-dir:"):
        return _embedded(s.encoder, weights, device, s.tile_px, s.source_background)
    if found.missing:
        log.warning(
            "%s: %d of its grid's tiles are missing, and without the encoder's weights what glass looks like to it is"
            " not known: the mean of the %d others stands for them; `encoder_weights` mends that",
            *(path, found.missing, len(found.features)),
        )
    return found.features.mean(axis=0)


@functools.lru_cache(maxsize=8)
def _embedded(name: str, weights: Path | None, device: str, tile_px: int, colour: tuple[int, int, int]) -> np.ndarray:
    tile = np.full((1, tile_px, tile_px, 3), colour, np.uint8)
    return load_encoder(name, weights, device).encode(tile)[0]
