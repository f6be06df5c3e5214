"""The grid of embeddings over a slide, and its HDF5 file, which TRIDENT's and CLAM's readers open too.

Datasets: /features (N, D) float32 and /coords (N, 2) int64, level-0 top-left corners (x, y), of the N tiles
that hold tissue, row by row; /background (D,) float32, the embedding of a tile of the background colour.
Attributes of /coords are TRIDENT's, without a magnification that neither the metadata nor the user gave;
attributes of the root are the settings (`EmbeddingSettings`) and `complete`.
"""

import logging
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from largegen.embeddings.grid import EmbeddingGrid
from largegen.embeddings.hdf5 import open_hdf5, why_unreadable
from largegen.embeddings.settings import NAMES_ON_DISK, EmbeddingSettings
from largegen.errors import EmbeddingFileError, OutputError
from largegen.runtime.files import START_BYTES, not_damaged, stand_in

log = logging.getLogger(__name__)

FORMAT = "largegen-embeddings"
FORMAT_VERSION = 1
CHUNK_ROWS = 64


class EmbeddingFile:
    """A complete, undamaged embedding file.

    Attributes:
        path: Where it is.
        settings: What its embeddings depend on.
        count: Number N of tiles.
        dim: D of an embedding.
        background: (D,) float32, the embedding of a tile of the background colour.
        attrs: Attributes of the file.
        coords_attrs: Attributes of /coords, which are TRIDENT's.

    Raises:
        EmbeddingFileError: For any other file.
    """

    def __init__(self, path: Path):
        import h5py

        self.path = Path(path)
        if not self.path.is_file():
            raise EmbeddingFileError(f"{path}: no such embedding file")
        if not h5py.is_hdf5(self.path):
            with self.path.open("rb") as file:
                what = stand_in(file.read(START_BYTES))
            raise EmbeddingFileError(f"{path}: {what or 'not an HDF5 file'}")
        try:
            with open_hdf5(self.path) as file:
                self._check(file)
                self.attrs = {key: _plain(value) for key, value in file.attrs.items()}
                self.coords_attrs = {key: _plain(value) for key, value in file["coords"].attrs.items()}
                self.count, self.dim = file["features"].shape
                self.background = file["background"][:]
            self.settings = EmbeddingSettings.from_dict(self.attrs)
        except KeyError as error:
            raise EmbeddingFileError(f"{path}: the attribute {error} is missing; embed the slide again") from error
        except (TypeError, ValueError) as error:
            not_damaged(error, self.path)
            raise EmbeddingFileError(f"{path}: its attributes cannot be: {error}; embed the slide again") from error
        except (OSError, RuntimeError) as error:
            not_damaged(error, self.path)
            raise EmbeddingFileError(f"{path}: {why_unreadable(error)}; embed again") from error

    def _check(self, file: Any) -> None:
        missing = [name for name in ("features", "coords", "background") if name not in file]
        if missing or file.attrs.get("format") != FORMAT:
            lacks = f" (no /{missing[0]})" if missing else ""
            hint = "`largegen import` makes one of those of other tools, `largegen embed` of slides"
            raise EmbeddingFileError(f"{self.path}: not an embedding file of largegen{lacks}; {hint}")
        if file.attrs["format_version"] > FORMAT_VERSION:
            raise EmbeddingFileError(f"{self.path}: written by a newer largegen; upgrade this one")
        if not file.attrs.get("complete", False):
            raise EmbeddingFileError(f"{self.path}: incomplete; embed the slide again")
        features, coords = file["features"].shape, file["coords"].shape
        dim = int(file.attrs[NAMES_ON_DISK["dim"]])
        if features != (coords[0], dim) or coords[1:] != (2,) or file["background"].shape != (dim,):
            raise EmbeddingFileError(
                f"{self.path}: features {features}, coords {coords} and width {dim} do not fit together"
            )

    def features(self) -> np.ndarray:
        """Read the embeddings: (N, D) float32."""
        return self._read("features")

    def coords(self) -> np.ndarray:
        """Read the level-0 top-left corners (x, y): (N, 2) int64."""
        return self._read("coords")

    def _read(self, name: str) -> np.ndarray:
        try:
            with open_hdf5(self.path) as file:
                return np.asarray(file[name])
        except (OSError, RuntimeError) as error:
            not_damaged(error, self.path)
            raise EmbeddingFileError(f"{self.path}: {why_unreadable(error)}") from error

    @cached_property
    def cells(self) -> np.ndarray:
        """(N, 2) int64: row and column of each tile in the file's own grid."""
        s = self.settings
        stride = (s.tile_px - s.overlap_px) * s.downsample
        row0, col0, rows, cols = s.region
        coords = self.coords() - np.array(s.grid_xy or (0, 0))
        cells = np.rint(coords[:, ::-1] / stride).astype(np.int64)
        off_grid = np.abs(cells[:, ::-1] * stride - coords).max(initial=0) > 1
        cells -= (row0, col0)
        outside = (cells < 0).any() or (cells >= (rows, cols)).any()
        if off_grid or outside or len(np.unique(cells, axis=0)) != len(cells):
            raise EmbeddingFileError(f"{self.path}: its coords do not form a grid of {rows}x{cols} tiles")
        return np.asarray(cells)

    def grid(self) -> EmbeddingGrid:
        """Read the grid; tiles that the file lacks have the background's embedding."""
        s = self.settings
        row0, col0, rows, cols = s.region
        features = np.tile(self.background, (rows, cols, 1))
        tissue = np.zeros((rows, cols), bool)
        where = tuple(self.cells.T)
        features[where] = self.features()
        tissue[where] = True
        return EmbeddingGrid(
            features=features,
            tissue=tissue,
            background=self.background,
            tile_px=s.tile_px,
            overlap_px=s.overlap_px,
            downsample=s.downsample,
            origin_xy=s.xy(row0, col0),
            encoder=s.encoder,
            licence=s.encoder_licence,
            source=s.source,
        )


def read_grid(path: Path, dim: int | None = None) -> EmbeddingGrid:
    """Read the grid of an embedding file.

    Args:
        path: The file.
        dim: D that the reader's model was trained with; None: any.

    Returns:
        The embeddings as they lie on the slide.

    Raises:
        EmbeddingFileError: For a file that is damaged, incomplete, not a grid, or of another dimension.
    """
    file = EmbeddingFile(path)
    if dim is not None and file.dim != dim:
        raise EmbeddingFileError(
            f"{path}: {file.dim}-dimensional embeddings (encoder {file.settings.encoder}), but the model needs {dim}"
        )
    return file.grid()


def keep_existing(path: Path, settings: EmbeddingSettings) -> Path:
    """Take the file that is there for the one that would be made, and say so.

    Raises:
        OutputError: Where it was made with other settings.
        EmbeddingFileError: Where it is damaged, or something else.
    """
    difference = EmbeddingFile(path).settings.difference(settings)
    if difference:
        raise OutputError(f"{path}: exists with other settings ({difference}); use `overwrite` or another `out`")
    log.info("%s: up to date, kept", path)
    return path


def write_embeddings(
    path: Path,
    settings: EmbeddingSettings,
    coords: np.ndarray,
    features: np.ndarray,
    background: np.ndarray,
    coords_attrs: Mapping[str, Any],
) -> None:
    """Write a complete file to `path` (which is not made atomic here).

    Args:
        path: The file.
        settings: Become the attributes of the root.
        coords: (N, 2) int64, level-0 top-left corners (x, y).
        features: (N, D) float32.
        background: (D,) float32.
        coords_attrs: Become the attributes of /coords.
    """
    import h5py

    from largegen.version import __version__

    # Made in memory: on a full disk the HDF5 library can neither write nor close, and ends the process.
    with h5py.File(path.name, "w", driver="core", backing_store=False, block_size=2**20) as file:
        for name, data in (("features", features.astype(np.float32)), ("coords", coords.astype(np.int64))):
            columns = data.shape[1]
            file.create_dataset(name, data=data, maxshape=(None, columns), chunks=(CHUNK_ROWS, columns))
        file.create_dataset("background", data=background.astype(np.float32))
        file["coords"].attrs.update(coords_attrs)
        file.attrs.update(settings.as_dict())
        file.attrs.update(format=FORMAT, format_version=FORMAT_VERSION, largegen_version=__version__)
        file.attrs["complete"] = True
        file.flush()
        image = file.id.get_file_image()
    path.write_bytes(image)


def _plain(value: Any) -> Any:
    """Turn an attribute as h5py gives it into a plain Python value."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
