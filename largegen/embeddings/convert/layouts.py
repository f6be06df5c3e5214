"""What the embedding files of other projects hold: which of their arrays, of which encoder, laid out how.

- ZoomLDM's grids: `<n>_uni_grid.npy` (D, n) and `<n>_dino_grid.npy` (n, D), the tiles of a square row by row; also
  (h, w, D) and (D, h, w), in .npy, .npz, HDF5 (`feat_20x`) or pickles, there in dictionaries and lists too.
- TRIDENT's and CLAM's HDF5: /features (N, D) or (1, N, D), and /coords (N, 2), top-left corners in level-0 px, with
  attributes that say more or, CLAM's, less of the tiles' size.
- HEST's HDF5: /embeddings and /coords likewise.
- STAMP's HDF5: /feats and /coords, top-left corners in um; attributes of the root say the tiles' size in px and um.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from largegen.embeddings.convert.arrays import Arrays
from largegen.errors import InputError
from largegen.models.encoder_registry import EncoderSpec
from largegen.slides.ome import micrometres

STAMP_PX = 224  # side of a tile of STAMP's first versions, which do not write it
NAMED_GRIDS = {"_uni_": "uni_v1", "_dino_": "dinov2_vitl14_reg"}  # what ZoomLDM's authors call their files


FEATURES = ("features", "feats", "embeddings")  # arrays that /coords belongs to
COORDS = ("coords", "coordinates")
EXTRACTORS = {  # STAMP's names of encoders
    **{"mahmood-uni": "uni_v1", "uni": "uni_v1", "mahmood-uni2": "uni_v2", "uni2": "uni_v2"},
    **{"ctranspath": "ctranspath", "owkin-phikon": "phikon", "phikon": "phikon"},
}


def encoder_name(found: Arrays, given: str | None, path: Path) -> str:
    """Name the encoder, as the user, the file's attributes, its name or its folder say.

    TRIDENT's folders are called `features_<encoder>`.

    Raises:
        InputError: Where nothing says.
    """
    names = [given]
    for place in ("features", "coords", ""):
        names += [found.attributes.get(place, {}).get(key) for key in ("encoder", "patch_encoder")]
    extractor = _text(found.attributes.get("", {}).get("extractor"))
    names.append(EXTRACTORS.get(extractor.lower(), extractor) or None)
    names += [encoder for part, encoder in NAMED_GRIDS.items() if part in path.name]
    folder = path.absolute().parent.name
    names.append(folder.removeprefix("features_") if folder.startswith("features_") else None)
    for name in names:
        if name:
            return _text(name)
    raise InputError(f"{path}: does not say which encoder its embeddings are of; name it with `encoder`")


def choose(found: Arrays, dataset: str | None, spec: EncoderSpec, path: Path) -> str:
    """Choose the embeddings among a file's arrays, and return their path inside it.

    Args:
        found: The arrays.
        dataset: The path that the user gave; None: the only array of the encoder's dimension, or `features`.
        spec: The encoder.
        path: Of the file, for errors.

    Raises:
        InputError: Where there is none, or are several.
    """
    if dataset is not None:
        if dataset not in found.arrays or found.arrays[dataset].dtype.kind != "f":
            raise InputError(f"{path}: has no array {dataset!r} of embeddings; it has {_listed(found.arrays)}")
        return dataset
    floats = {name: value for name, value in found.arrays.items() if value.dtype.kind == "f" and value.ndim}
    fitting = [name for name, value in floats.items() if spec.dim in value.shape]
    if not fitting:
        raise InputError(
            f"{path}: holds no {spec.dim}-dimensional embeddings of {spec.name}; it has {_listed(found.arrays)}"
        )
    usual = [name for name in FEATURES if name in fitting]
    if len(fitting) > 1 and not usual:
        raise InputError(f"{path}: holds several: {_listed(fitting)}; choose one with `dataset`")
    return (usual or fitting)[0]


def _listed(arrays: Mapping[str, Any] | list[str], most: int = 6) -> str:
    names = [f"{name or 'one'} {arrays[name].shape}" for name in arrays] if isinstance(arrays, Mapping) else arrays
    return (", ".join(names[:most]) + (", ..." if len(names) > most else "")) or "no array"


@dataclass(frozen=True)
class TileMetadata:
    """What the attributes of /coords say of tiles and slide; None where they do not."""

    tile_px: float | None = None
    overlap_px: float | None = None
    level0_px: float | None = None  # side of a tile in level-0 px
    mag: float | None = None  # of the tiles
    source_mag: float | None = None  # of level 0
    source_width: float | None = None  # level-0 px
    source_height: float | None = None


def tile_metadata(raw: Mapping[str, Any]) -> TileMetadata:
    """Read TRIDENT's and CLAM's attributes of /coords; what is not positive is unknown."""
    tile_px, level0_px = _number(raw.get("patch_size")), _number(raw.get("patch_size_level0"))
    width, height = _number(raw.get("level0_width")), _number(raw.get("level0_height"))
    if "patch_level" in raw:  # CLAM: patch_size is in px of that level, to which `downsample` leads
        ratio = _number(raw.get("downsample")) or (1.0 if not np.ravel(raw["patch_level"])[0] else None)
        if tile_px and ratio:
            level0_px = level0_px or tile_px * ratio
        if ratio == 1 and np.size(raw.get("level_dim", ())) == 2:
            width, height = (float(v) for v in np.ravel(raw["level_dim"]))
    return TileMetadata(
        tile_px=tile_px,
        overlap_px=0 if _first(raw.get("overlap")) == 0 else _number(raw.get("overlap")),
        level0_px=level0_px,
        mag=_number(raw.get("target_magnification")),
        source_mag=_number(raw.get("level0_magnification")),
        source_width=width,
        source_height=height,
    )


def tiles_in_um(root: Mapping[str, Any], coords: Mapping[str, Any]) -> tuple[int, float] | None:
    """Read STAMP's attributes: a tile's side in (px, um), where /coords is in um; None for other files.

    Args:
        root: attributes of the file.
        coords: attributes of /coords.
    """
    unit = _text(coords.get("unit") if coords.get("unit") is not None else root.get("unit"))
    side_um = _number(root.get("tile_size_um")) or _number(root.get("tile_size"))
    if micrometres(unit) != 1 or side_um is None:
        return None
    return int(_number(root.get("tile_size_px")) or STAMP_PX), side_um


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else "" if value is None else str(value)


def _number(value: Any) -> float | None:
    """Return the first of a value's numbers where it is positive."""
    first = _first(value)
    return float(first) if isinstance(first, np.number | float | int) and first > 0 else None


def _first(value: Any) -> Any:
    return np.ravel(value)[0] if value is not None and np.size(value) else None


def as_grid(values: np.ndarray, kind: str, spec: EncoderSpec, path: Path) -> np.ndarray:
    """Lay an array out as a grid: as stored => (rows, columns, D).

    Args:
        values: The array.
        kind: Of the file: npy, npz, hdf5 or pickle.
        spec: The encoder.
        path: Of the file; its name tells how ZoomLDM's grids are laid out.

    Raises:
        InputError: For an array that is no grid, or that may be read in two ways.
    """
    dim, shape = spec.dim, values.shape
    if values.ndim == 1:
        values = values[None]
    if values.ndim == 2:
        columns_first = "_uni_" in path.name or values.shape[1] != dim
        named = any(part in path.name for part in NAMED_GRIDS)
        if values.shape == (dim, dim) and kind in ("npy", "npz") and not named:
            raise InputError(
                f"{path}: {dim} tiles of {dim} dimensions, or the other way around: name the file"
                f" *_uni_grid.{kind} where each column is a tile, *_dino_grid.{kind} where each row is one"
            )
        values = values.T if columns_first and values.shape[0] == dim else values
        side = math.isqrt(len(values))
        if values.shape[1] == dim and side * side != len(values):
            raise InputError(
                f"{path}: {len(values)} tiles are no square, and it does not say where they lie; save it as"
                " (rows, columns, dimensions)"
            )
        values = values.reshape(side, side, -1) if values.shape[1] == dim else values
    elif values.ndim == 3 and shape[2] != dim and shape[0] == dim:
        values = values.transpose(1, 2, 0)  # DHW => HWD
    if values.ndim != 3 or values.shape[2] != dim:
        raise InputError(f"{path}: an array of {shape} is no grid of {dim}-dimensional embeddings of {spec.name}")
    return values
