"""Embedding files of other projects (see layouts.py) -> embedding files of this one.

What a file does not say stays unknown: the weights of its encoder (`encoder_fingerprint` is ""), how tissue was found
and, unless it or the user gives one, its resolution.
"""

import functools
import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from largegen.embeddings.convert.arrays import open_arrays
from largegen.embeddings.convert.facts import ImportFacts, ImportOptions
from largegen.embeddings.convert.grid_fit import TileLayout, find_grid
from largegen.embeddings.convert.layouts import (
    COORDS,
    FEATURES,
    NAMED_GRIDS,
    TileMetadata,
    as_grid,
    choose,
    encoder_name,
    tile_metadata,
    tiles_in_um,
)
from largegen.embeddings.file import FORMAT, EmbeddingFile, write_embeddings
from largegen.embeddings.settings import EmbeddingSettings, as_colour, trident_attributes
from largegen.errors import EmbeddingFileError, InputError
from largegen.models.encoder import encoder_spec, load_encoder
from largegen.models.encoder_registry import EncoderSpec
from largegen.runtime.files import atomic
from largegen.runtime.lock import lock
from largegen.runtime.outputs import check_new
from largegen.slides.colour import WHITE
from largegen.slides.tiles import TileGrid

if TYPE_CHECKING:
    from largegen.slides.slide import Slide

log = logging.getLogger(__name__)

BLACK = (0, 0, 0)  # of a scene, where there is no data
MAX_CORNER_PX = 2**31  # level-0 px that a tile may lie from the slide's corner
MAX_TILES = 10**8  # tiles that a grid may have: a hundred times those of a large slide


@dataclass(frozen=True)
class ImportedEmbeddings:
    """A file's embeddings in their places; that of the background is not among them."""

    settings: EmbeddingSettings
    features: np.ndarray  # (N, D) float32
    coords: np.ndarray  # (N, 2) int64: level-0 top-left corners (x, y)
    magnifications: tuple[float | None, float | None]  # of level 0, and of the tiles
    spec: EncoderSpec
    guessed: bool = False  # nothing says that the tiles are a square, row by row

    @property
    def missing(self) -> int:
        """Tiles of the grid that the file does not have."""
        return math.prod(self.settings.region[2:]) - len(self.features)


def import_embeddings(
    path: Path,
    out: Path,
    options: ImportOptions | None = None,
    *,
    slide: "Slide | None" = None,
    encoder_weights: Path | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Turn an embedding file of another project into one of this.

    Such files lack the embedding of the background. It is computed where weights are given, and with the bundled
    encoder and those of local-dir:. Otherwise the mean of the file's embeddings stands for it and for every tile that
    the file lacks, which a warning says.

    Args:
        path: The file.
        out: Directory for `<name>.h5`, the name being the slide's or the file's.
        options: What the user says of the file.
        slide: What the embeddings are of; it gives name, size, resolution and place.
        encoder_weights: File of the encoder's weights.
        device: As resolve_device takes it.
        overwrite: Replace a file that exists.

    Returns:
        The file.

    Raises:
        InputError: As `read_import` does.
        ModelError: For weights that do not match the encoder.
        LockedError: While another process writes the file.
        OutputError: For a file that exists (unless `overwrite`).
    """
    target = import_path(path, out, slide)
    found = read_import(path, options, slide=slide)
    with lock(target):
        if not overwrite and _is_made_of(target, found):
            log.info("%s: up to date, kept", target)
            return target
        check_new(target, overwrite)
        if found.guessed:
            rows, columns = found.settings.region[2:]
            log.warning("%s: does not say where its tiles lie; taken for %dx%d, row by row", path, rows, columns)
        background = _background(found, encoder_weights, device, path)
        attributes = trident_attributes(target, found.settings, *found.magnifications)
        with atomic(target) as temporary:
            write_embeddings(temporary, found.settings, found.coords, found.features, background, attributes)
    return target


def _is_made_of(target: Path, found: ImportedEmbeddings) -> bool:
    """Tell whether a file holds these embeddings already."""
    try:
        file = EmbeddingFile(target)
        same = file.settings.difference(found.settings) is None and np.array_equal(file.coords(), found.coords)
        return same and np.array_equal(file.features(), found.features.astype(np.float32))
    except EmbeddingFileError:
        return False


def import_path(path: Path, out: Path, slide: "Slide | None" = None) -> Path:
    """Return where a file's embeddings go.

    Raises:
        InputError: Where that is the file itself.
    """
    target = Path(out) / f"{slide.name if slide else Path(path).stem}.h5"
    if target.exists() and Path(path).exists() and target.samefile(path):
        raise InputError(f"{path}: would be replaced by what is made of it; choose another `out`")
    return target


def read_import(
    path: Path, options: ImportOptions | None = None, *, slide: "Slide | None" = None
) -> ImportedEmbeddings:
    """Read a file of another project and find out all that can be known of it.

    Args:
        path: The file.
        options: What the user says of it.
        slide: What the embeddings are of.

    Raises:
        InputError: For a file that is damaged, holds no embeddings of its encoder or is not laid out as a grid, and
            where it, the user and the slide do not agree.
    """
    path, options = Path(path), options or ImportOptions()
    with open_arrays(path) as found:
        if found.attributes.get("", {}).get("format") == FORMAT:
            raise InputError(f"{path}: an embedding file of largegen already; use it as it is")
        spec = encoder_spec(encoder_name(found, options.encoder, path), options.embedding_dim)
        name = choose(found, options.dataset, spec, path)
        with np.errstate(over="ignore"):  # of float64: found below
            values = found.arrays[name][()].astype(np.float32)
        where = next((key for key in COORDS if key in found.arrays or key in found.attributes), COORDS[0])
        coords = found.arrays[where][()] if name in FEATURES and where in found.arrays else None
        if coords is None and where in found.attributes:
            raise InputError(f"{path}: its {where} are not numbers")
        attributes = found.attributes.get(where, {})
        facts = ImportFacts(path, options, slide, spec, tile_metadata(attributes))
        in_um = tiles_in_um(found.attributes.get("", {}), attributes) if coords is not None else None
        if coords is not None and in_um is not None:
            coords, facts = _in_level0_px(coords, *in_um, facts)
    if not values.size:
        raise InputError(f"{path}: holds no embedding")
    if not np.isfinite(values).all():
        raise InputError(f"{path}: holds values that are not finite (NaN or infinite)")
    if coords is None:
        grid = as_grid(values, found.kind, spec, path)
        features, layout = grid.reshape(-1, spec.dim), _whole_grid(grid.shape[0], grid.shape[1], facts)
    else:
        features, layout = _tiles(values, coords, facts)
    settings = _settings(layout, facts)
    guessed = coords is None and values.ndim == 2 and len(features) > 1 and not any(n in path.name for n in NAMED_GRIDS)
    return ImportedEmbeddings(settings, features, layout.coords, (facts.source_mag, facts.mag), spec, guessed)


def _in_level0_px(
    coords: np.ndarray, tile_px: int, tile_um: float, facts: ImportFacts
) -> tuple[np.ndarray, ImportFacts]:
    """Turn corners in um into level-0 px: those of the slide, else of a slide that has the tiles' own resolution."""
    mpp = facts.mpp(1.0) or tile_um / tile_px
    metadata = TileMetadata(tile_px=tile_px, level0_px=tile_um / mpp)
    options = facts.options if facts.slide else replace(facts.options, source_mpp=mpp)
    return coords / mpp, replace(facts, metadata=metadata, options=options)


def _whole_grid(rows: int, cols: int, facts: ImportFacts) -> TileLayout:
    """Lay rows x columns tiles from the slide's corner on."""
    if facts.slide and facts.downsample is None:
        raise InputError(
            f"{facts.path}: does not say at what resolution it shows {facts.slide.path}; give `mag`, `mpp` or `gsd`"
        )
    tile_px, overlap_px = facts.options.tile_px or 256, facts.options.overlap_px or 0
    if overlap_px >= tile_px:
        raise InputError(f"tiles of {tile_px} px with an overlap of {overlap_px} px: must be 0 <= overlap < tile")
    grid = TileGrid(facts.downsample or 1.0, rows, cols, tile_px, overlap_px)
    cells = np.argwhere(np.ones((rows, cols), bool))
    return TileLayout(tile_px, overlap_px, grid.downsample, None, cells, grid.coords, np.arange(len(cells)), 0.0)


def _tiles(features: np.ndarray, coords: np.ndarray, facts: ImportFacts) -> tuple[np.ndarray, TileLayout]:
    """Tiles with their corners => (N, D) and their places."""
    path, spec = facts.path, facts.spec
    features, coords = (a[0] if a.ndim == 3 and len(a) == 1 else a for a in (features, coords))  # 1ND => ND
    if features.ndim != 2 or features.shape[1] != spec.dim or coords.shape != (len(features), 2):
        raise InputError(
            f"{path}: features {features.shape} and coords {coords.shape} do not fit together, or not {spec.name}"
            f" ({spec.dim} dimensions)"
        )
    if not np.isfinite(coords).all() or coords.min() < 0 or coords.max() > MAX_CORNER_PX:
        raise InputError(f"{path}: its coords are no places on a slide")
    layout = find_grid(np.rint(coords).astype(np.int64), facts.tile_size(), str(path))
    lost = len(coords) - len(layout.kept)
    if layout.moved_px or lost:
        log.warning(
            "%s: of its %d tiles, %d were left out, as another is as near to their place, and the others lie up to %d"
            " level-0 px off one grid, to which they were moved",
            *(path, len(coords), lost, round(layout.moved_px)),
        )
    return features[layout.kept], layout


def _settings(layout: TileLayout, facts: ImportFacts) -> EmbeddingSettings:
    """Describe the file to write, of a slide as large as is known, or as its tiles reach."""
    path, slide, spec = facts.path, facts.slide, facts.spec
    width, height, rows, columns = _extent(layout, facts)
    source, geo = (slide.path if slide else path), slide.georeference if slide else None
    return EmbeddingSettings(
        source_name=slide.name if slide else path.stem,
        source_path=str(Path(source).absolute()),
        source_kind=facts.kind,
        source_width=width,
        source_height=height,
        source_bytes=Path(source).stat().st_size,
        source_background=as_colour(slide.background if slide else BLACK if facts.kind == "scene" else WHITE),
        mpp=facts.mpp(layout.downsample),
        gsd_m=facts.gsd_m(layout.downsample),
        crs=geo.crs if geo else None,
        transform=tuple(float(v) for v in geo.transform) if geo else None,
        downsample=float(layout.downsample),
        tile_px=layout.tile_px,
        overlap_px=layout.overlap_px,
        region=(0, 0, rows, columns),
        tissue_filter="none" if len(layout.cells) == rows * columns else "unknown",
        encoder=spec.name,
        encoder_fingerprint="",
        encoder_licence=spec.licence,
        dim=spec.dim,
        precision="unknown",
        grid_xy=layout.grid_xy,
        mpp_from=facts.mpp_from,
    )


def _extent(layout: TileLayout, facts: ImportFacts) -> tuple[int, int, int, int]:
    """Find width and height of the slide in level-0 px, and rows and columns of its tile grid."""
    path, slide, metadata = facts.path, facts.slide, facts.metadata
    level0_px, grid_xy = layout.tile_px * layout.downsample, np.array(layout.grid_xy or (0, 0))
    stride = (layout.tile_px - layout.overlap_px) * layout.downsample
    reach = np.rint(layout.cells.max(axis=0)[::-1] * stride + grid_xy + level0_px).astype(int)  # (x, y)
    stated = metadata.source_width, metadata.source_height
    other = tuple(int(v) for v in stated if v is not None)
    if slide and len(other) == 2 and other != (slide.width, slide.height):
        raise InputError(
            f"{path}: of a slide of {other[0]}x{other[1]} px, but {slide.path} has {slide.width}x{slide.height}"
        )
    width, height = (slide.width, slide.height) if slide else stated
    if width is None or height is None:
        width, height = (int(v) for v in reach)
    elif (reach - level0_px >= (width, height)).any():
        raise InputError(f"{path}: its tiles reach {reach[0]},{reach[1]}, off a slide of {width:g}x{height:g} px")
    whole = np.floor((np.array((width, height)) - grid_xy - level0_px) / stride + 1e-6).astype(int) + 1  # tiles
    columns, rows = (int(v) for v in np.maximum(whole, layout.cells.max(axis=0)[::-1] + 1))
    if float(columns) * float(rows) > MAX_TILES:
        raise InputError(f"{path}: a grid of {rows}x{columns} tiles: its coords or what it says of them must be wrong")
    return int(width), int(height), rows, columns


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
    return np.asarray(found.features.mean(axis=0))


@functools.lru_cache(maxsize=8)
def _embedded(name: str, weights: Path | None, device: str, tile_px: int, colour: tuple[int, int, int]) -> np.ndarray:
    tile = np.full((1, tile_px, tile_px, 3), colour, np.uint8)
    return np.asarray(load_encoder(name, weights, device).encode(tile)[0])
