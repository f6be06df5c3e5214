"""Embedding files as AnnData, in the layout of LazySlide's feature tables."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from largegen.embeddings.file import EmbeddingFile
from largegen.errors import InputError, OutputError, first_line
from largegen.runtime.files import atomic
from largegen.runtime.lock import lock
from largegen.version import __version__

if TYPE_CHECKING:
    from anndata import AnnData

TILES = "tiles"  # LazySlide's name of the tiles that features are of
OURS = "largegen"  # the entry of `uns` that says what the file is of


def require_extra() -> None:
    """Raise InputError where anndata is not installed."""
    if not find_spec("anndata"):
        raise InputError("`format` h5ad needs anndata: pip install 'largegen[anndata]'")


def to_anndata(file: EmbeddingFile) -> "AnnData":
    """Turn an embedding file into AnnData.

    Returns:
        `X` (N, D) float32, the embeddings; `obs` with each tile's `tile_id`, `library_id` ("tiles"), `row` and `col`;
        `obsm["spatial"]` (N, 2), level-0 top-left corners (x, y); `uns` with `spatialdata_attrs`, by which SpatialData
        joins the table to LazySlide's tiles, and `largegen`, the settings as JSON.
    """
    import pandas as pd
    from anndata import AnnData

    number = np.arange(file.count)
    row, col = file.cells.T
    library = pd.Categorical([TILES] * file.count)
    obs = pd.DataFrame({"tile_id": number, "library_id": library, "row": row, "col": col}, index=number.astype(str))
    joined = {"region": TILES, "region_key": "library_id", "instance_key": "tile_id"}
    uns = {"spatialdata_attrs": joined, OURS: _about(file)}
    return AnnData(X=file.features(), obs=obs, obsm={"spatial": file.coords()}, uns=uns)


def write_anndata(path: Path, overwrite: bool = False) -> Path:
    """Write `<name>.h5ad` beside an embedding file `<name>.h5`; one of the same embeddings is kept.

    Raises:
        EmbeddingFileError: For any other file than an embedding file.
        OutputError: Where there is another file of that name, unless `overwrite`.
    """
    file, out = EmbeddingFile(path), Path(path).with_suffix(".h5ad")
    with lock(out):
        if out.exists() and not overwrite:
            if _made_of(out) == _about(file):
                return out
            raise OutputError(f"{out}: exists and is not of these embeddings; use `overwrite` or another `out`")
        with atomic(out) as temporary:
            to_anndata(file).write_h5ad(temporary, compression="gzip")
    return out


def _about(file: EmbeddingFile) -> str:
    return json.dumps({"largegen_version": __version__, **file.settings.as_dict()}, sort_keys=True)


def _made_of(path: Path) -> str | None:
    import h5py

    try:
        with h5py.File(path) as file:
            return str(file[f"uns/{OURS}"].asstr()[()])
    except (OSError, KeyError, TypeError) as error:
        raise OutputError(f"{path}: exists and is none of largegen's: {first_line(error)}") from error
