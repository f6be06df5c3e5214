"""The grid of embeddings over a slide, and its HDF5 file, which TRIDENT's and CLAM's readers open too.

Datasets: /features (N, D) float32 and /coords (N, 2) int64, level-0 top-left corners (x, y), of the N tiles
that hold tissue, row by row; /background (D,) float32, the embedding of a tile of the background colour.
Attributes of /coords are TRIDENT's, without a magnification that neither the metadata nor the user gave;
attributes of the root are the settings (`Settings`) and `complete`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from largegen.embeddings.grid import EmbeddingGrid, SourceInfo
from largegen.errors import EmbeddingFileError, first_line

if TYPE_CHECKING:
    from largegen.models.encoder import Encoder
    from largegen.slides.slide import Slide


FORMAT = "largegen-embeddings"
FORMAT_VERSION = 1
CHUNK_ROWS = 64
NAMES_ON_DISK = {"dim": "width"}  # settings whose names in the file are others


@dataclass(frozen=True)
class Settings:
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
        )

    def xy(self, row: int, col: int) -> tuple[int, int]:
        """Level-0 top-left corner of a tile of the slide's grid; may lie outside the slide."""
        stride = (self.tile_px - self.overlap_px) * self.downsample
        x, y = self.grid_xy or (0, 0)
        return x + round(col * stride), y + round(row * stride)

    @classmethod
    def of(
        cls,
        slide: "Slide",
        encoder: "Encoder",
        downsample: float,
        tile_px: int,
        overlap_px: int,
        region: tuple[int, int, int, int],
        tissue_filter: str,
    ) -> "Settings":
        place = slide.georeference
        return cls(
            source_name=slide.name,
            source_path=str(Path(slide.path).absolute()),
            source_kind=slide.kind,
            source_width=slide.width,
            source_height=slide.height,
            source_bytes=Path(slide.path).stat().st_size,
            source_background=tuple(int(v) for v in slide.background),
            mpp=slide.mpp,
            gsd_m=slide.gsd_m,
            crs=place.crs if place else None,
            transform=tuple(float(v) for v in place.transform) if place else None,
            downsample=float(downsample),
            tile_px=tile_px,
            overlap_px=overlap_px,
            region=tuple(region),
            tissue_filter=tissue_filter,
            encoder=encoder.spec.name,
            encoder_fingerprint=encoder.fingerprint,
            encoder_licence=encoder.spec.licence,
            dim=encoder.dim,
            precision=str(encoder.dtype).removeprefix("torch."),
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Settings":
        """The inverse of `as_dict`; raises KeyError for one that is missing."""
        optional = ("mpp", "gsd_m", "crs", "transform", "grid_xy")
        found = {
            field: values.get(key) if field in optional else values[key]
            for field, key in ((field, NAMES_ON_DISK.get(field, field)) for field in cls.__dataclass_fields__)
        }
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in found.items()})

    def as_dict(self) -> dict[str, Any]:
        """The attributes of the file; without what is not known."""
        return {NAMES_ON_DISK.get(k, k): v for k, v in asdict(self).items() if v is not None}

    def difference(self, other: "Settings") -> str | None:
        """The first setting, as text, in which `other` would give other embeddings; None if there is none."""
        for key, value in asdict(self).items():
            if key != "source_path" and getattr(other, key) != value:
                return f"{key} {value} against {getattr(other, key)}"
        return None


class EmbeddingFile:
    """A complete, undamaged embedding file. Raises EmbeddingFileError for any other."""

    def __init__(self, path: Path):
        import h5py

        self.path = Path(path)
        if not self.path.is_file():
            raise EmbeddingFileError(f"{path}: no such embedding file")
        if not h5py.is_hdf5(self.path):
            raise EmbeddingFileError(f"{path}: not an HDF5 file")
        try:
            with h5py.File(self.path, "r") as file:
                self._check(file)
                self.attrs = {key: _plain(value) for key, value in file.attrs.items()}
                self.coords_attrs = {key: _plain(value) for key, value in file["coords"].attrs.items()}
                self.count, self.dim = file["features"].shape
                self.background = file["background"][:]
            self.settings = Settings.from_dict(self.attrs)
        except EmbeddingFileError:
            raise
        except KeyError as error:
            raise EmbeddingFileError(f"{path}: the attribute {error} is missing; embed the slide again") from error
        except (OSError, RuntimeError) as error:
            raise EmbeddingFileError(f"{path}: damaged HDF5 file: {first_line(error)}; embed again") from error
        self.complete = True

    def _check(self, file) -> None:
        for name in ("features", "coords"):
            if name not in file:
                raise EmbeddingFileError(f"{self.path}: has no dataset /{name}: not an embedding file")
        if file.attrs.get("format") != FORMAT or "background" not in file:
            raise EmbeddingFileError(f"{self.path}: not written by `largegen embed`; embed the slide again")
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
        """(N, D) float32."""
        return self._read("features")

    def coords(self) -> np.ndarray:
        """(N, 2) int64: level-0 top-left corners (x, y)."""
        return self._read("coords")

    def _read(self, name: str) -> np.ndarray:
        import h5py

        try:
            with h5py.File(self.path, "r") as file:
                return file[name][:]
        except (OSError, RuntimeError) as error:
            raise EmbeddingFileError(f"{self.path}: damaged HDF5 file: {first_line(error)}") from error

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
        return cells

    def grid(self) -> EmbeddingGrid:
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
    """Read the grid of an embedding file; `dim` is the D that the reader's model was trained with.

    Raises EmbeddingFileError for a file that is damaged, incomplete, not a grid, or of another dimension.
    """
    file = EmbeddingFile(path)
    if dim is not None and file.dim != dim:
        raise EmbeddingFileError(
            f"{path}: {file.dim}-dimensional embeddings (encoder {file.settings.encoder}), but the model needs {dim}"
        )
    return file.grid()


def write_embeddings(
    path: Path,
    settings: Settings,
    coords: np.ndarray,
    features: np.ndarray,
    background: np.ndarray,
    coords_attrs: Mapping[str, Any],
) -> None:
    """Write a complete file to `path` (which is not made atomic here).

    coords: (N, 2) int64; features: (N, D) float32; background: (D,) float32.
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
    """An attribute as h5py gives it => a plain Python value."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def trident_attributes(
    path: Path, settings: Settings, magnification: float | None, mag: float | None
) -> dict[str, Any]:
    """TRIDENT's attributes of /coords; what is not known of the slide's `magnification`, or of `mag`, is left out."""
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
