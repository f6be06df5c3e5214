"""What the embedding files of other projects hold: which of their arrays, of which encoder, laid out how.

- ZoomLDM's grids: `<n>_uni_grid.npy` (D, n) and `<n>_dino_grid.npy` (n, D), the tiles of a square row by row; also
  (h, w, D) and (D, h, w), in .npy, .npz, HDF5 (`feat_20x`) or pickles, there in dictionaries and lists too.
- TRIDENT's and CLAM's HDF5: /features (N, D) or (1, N, D), and /coords (N, 2), top-left corners in level-0 px, with
  attributes that say more or, CLAM's, less of the tiles' size.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from largegen.embeddings.convert.arrays import Arrays
from largegen.errors import InputError
from largegen.models.encoder_registry import EncoderSpec

NAMED_GRIDS = {"_uni_": "uni_v1", "_dino_": "dinov2_vitl14_reg"}  # what ZoomLDM's authors call their files
SIZES = (
    *("patch_size", "patch_size_level0", "level0_magnification", "target_magnification"),
    *("level0_width", "level0_height"),
)


def encoder_name(found: Arrays, given: str | None, path: Path) -> str:
    """Of the user, else of the file's attributes, its name or its folder's, `features_<encoder>` in TRIDENT."""
    metadata = [given]
    for place in ("features", "coords", ""):
        metadata += [found.attributes.get(place, {}).get(key) for key in ("encoder", "patch_encoder")]
    metadata += [encoder for part, encoder in NAMED_GRIDS.items() if part in path.name]
    folder = path.absolute().parent.name
    metadata.append(folder.removeprefix("features_") if folder.startswith("features_") else None)
    for name in metadata:
        if name:
            return name.decode() if isinstance(name, bytes) else str(name)
    raise InputError(f"{path}: does not say which encoder its embeddings are of; name it with `encoder`")


def choose(found: Arrays, dataset: str | None, spec: EncoderSpec, path: Path) -> str:
    """The path of the embeddings inside a file."""
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
    if len(fitting) > 1 and "features" not in fitting:
        raise InputError(f"{path}: holds several: {_listed(fitting)}; choose one with `dataset`")
    return "features" if "features" in fitting else fitting[0]


def _listed(arrays: Mapping[str, Any] | list[str], most: int = 6) -> str:
    names = [f"{name or 'one'} {arrays[name].shape}" for name in arrays] if isinstance(arrays, Mapping) else arrays
    return (", ".join(names[:most]) + (", ..." if len(names) > most else "")) or "no array"


def tile_metadata(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What TRIDENT's and CLAM's attributes of /coords say, as plain numbers; what is not positive is unknown."""
    metadata: dict[str, Any] = {key: _number(raw.get(key)) for key in SIZES}
    metadata["overlap"] = 0 if _first(raw.get("overlap")) == 0 else _number(raw.get("overlap"))
    if "patch_level" in raw:  # CLAM: patch_size is in px of that level, to which `downsample` leads
        ratio = _number(raw.get("downsample")) or (1.0 if not np.ravel(raw["patch_level"])[0] else None)
        if metadata["patch_size"] and ratio:
            metadata["patch_size_level0"] = metadata["patch_size_level0"] or metadata["patch_size"] * ratio
        if ratio == 1 and np.size(raw.get("level_dim", ())) == 2:
            metadata["level0_width"], metadata["level0_height"] = (float(v) for v in np.ravel(raw["level_dim"]))
    return metadata


def _number(value: Any) -> float | None:
    """The first of a value's numbers where it is positive."""
    first = _first(value)
    return float(first) if isinstance(first, np.number | float | int) and first > 0 else None


def _first(value: Any) -> Any:
    return np.ravel(value)[0] if value is not None and np.size(value) else None


def as_grid(values: np.ndarray, kind: str, spec: EncoderSpec, path: Path) -> np.ndarray:
    """An array as stored => (rows, columns, D)."""
    dim, shape = spec.dim, values.shape
    if values.ndim == 1:
        values = values[None]
    if values.ndim == 2:
        columns_first = "_uni_" in path.name or values.shape[1] != dim
        named = any(part in path.name for part in NAMED_GRIDS)
        if values.shape == (dim, dim) and kind in ("npy", "npz") and not named:
            raise InputError(
                f"{path}: {dim} tiles of {dim} numbers, or the other way around: name the file"
                f" *_uni_grid.{kind} where each column is a tile, *_dino_grid.{kind} where each row is one"
            )
        values = values.T if columns_first and values.shape[0] == dim else values
        side = math.isqrt(len(values))
        if values.shape[1] == dim and side * side != len(values):
            raise InputError(
                f"{path}: {len(values)} tiles are no square, and it does not say where they lie; save it as"
                " (rows, columns, numbers)"
            )
        values = values.reshape(side, side, -1) if values.shape[1] == dim else values
    elif values.ndim == 3 and shape[2] != dim and shape[0] == dim:
        values = values.transpose(1, 2, 0)  # DHW => HWD
    if values.ndim != 3 or values.shape[2] != dim:
        raise InputError(f"{path}: an array of {shape} is no grid of {dim}-dimensional embeddings of {spec.name}")
    return values
