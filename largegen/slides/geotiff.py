"""What makes a TIFF a GeoTIFF: coordinate reference system, transform, nodata (OGC GeoTIFF 1.1)."""

from dataclasses import dataclass
from pathlib import Path

from largegen.errors import SlideError

PIXEL_SCALE, TIEPOINT, TRANSFORMATION, GEO_KEYS, GDAL_NODATA = 33550, 33922, 34264, 34735, 42113
MODEL_TYPE, RASTER_TYPE, GEOGRAPHIC_CRS, PROJECTED_CRS, LINEAR_UNIT = 1024, 1025, 2048, 3072, 3076
METRE, USER_DEFINED = 9001, 32767


@dataclass(frozen=True)
class Georeference:
    """Where a scene lies: `crs` as "EPSG:n" or WKT, and an affine `transform` (a, b, c, d, e, f).

    World x = a * column + b * row + c, world y = d * column + e * row + f (rasterio's order).
    """

    crs: str
    transform: tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class GeoTags:
    """What a GeoTIFF says of itself."""

    georeference: Georeference
    gsd_m: float | None  # metres per pixel; None unless the CRS is projected, in metres
    nodata: float | None


def read_geotiff(path: Path) -> GeoTags | None:
    """Read the georeference of a TIFF; None if it has none.

    A CRS without an EPSG code is read with rasterio; where that is missing, SlideError says what to install.
    """
    tags = first_directory(path)
    if GEO_KEYS not in tags or not (TRANSFORMATION in tags or {PIXEL_SCALE, TIEPOINT} <= tags.keys()):
        return None
    directory = tags[GEO_KEYS]
    keys = {directory[i]: directory[i + 3] for i in range(4, len(directory) - 3, 4) if directory[i + 1] == 0}
    if TRANSFORMATION in tags:
        m = tags[TRANSFORMATION]
        a, b, c, d, e, f = m[0], m[1], m[3], m[4], m[5], m[7]
    else:
        (scale_x, scale_y, *_), (column, row, _, x, y, *_) = tags[PIXEL_SCALE], tags[TIEPOINT]
        a, b, c, d, e, f = scale_x, 0.0, x - column * scale_x, 0.0, -scale_y, y + row * scale_y
    if keys.get(RASTER_TYPE) == 2:  # PixelIsPoint: the transform is that of pixel centres
        c, f = c - (a + b) / 2, f - (d + e) / 2
    code = keys.get(PROJECTED_CRS, keys.get(GEOGRAPHIC_CRS, USER_DEFINED))
    metres = keys.get(MODEL_TYPE) == 1 and (keys.get(LINEAR_UNIT, 0) == METRE or _is_utm(code))
    crs = f"EPSG:{code}"
    if code == USER_DEFINED or (keys.get(MODEL_TYPE) == 1 and not metres and LINEAR_UNIT not in keys):
        crs, metres = _crs_by_rasterio(path, crs)
    gsd_m = float((a * a + d * d) ** 0.5) if metres else None
    transform = tuple(float(v) for v in (a, b, c, d, e, f))
    return GeoTags(Georeference(crs, transform), gsd_m, _nodata(tags))


def _crs_by_rasterio(path: Path, crs: str) -> tuple[str, bool]:
    """The CRS, and whether it is projected in metres, from GDAL's database."""
    try:
        import rasterio
    except ImportError as error:
        if crs != f"EPSG:{USER_DEFINED}":
            return crs, False
        raise SlideError(f"{path}: its CRS has no EPSG code; install `largegen[geo]` to read it") from error
    with rasterio.open(path) as scene:
        found = scene.crs
        return found.to_string(), found.is_projected and abs(found.linear_units_factor[1] - 1) < 1e-9


def _is_utm(code: int) -> bool:
    """WGS 84, NAD83 and ETRS89 UTM zones and Web Mercator: in metres by definition."""
    return code == 3857 or 32601 <= code <= 32760 or 26901 <= code <= 26923 or 25828 <= code <= 25838


def _nodata(tags: dict) -> float | None:
    try:
        return float(str(tags.get(GDAL_NODATA, "")).strip("\0 "))
    except ValueError:
        return None


def first_directory(path: Path) -> dict:
    """The tags of a TIFF's first page; empty if it is not a TIFF or has no sound directory."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    with path.open("rb") as file:
        header = file.read(8)
        try:
            if header[2:3] == b"\x2b" or header[3:4] == b"\x2b":  # BigTIFF
                header += file.read(8)
            directory = ImageFileDirectory_v2(header)
            file.seek(directory.next)
            directory.load(file)
            return dict(directory)
        except (SyntaxError, OSError, ValueError, KeyError, TypeError):
            return {}
