"""Where a scene lies on Earth, by GDAL: its transform, control points or world file."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from largegen.runtime.say import say_once
from largegen.slides.find import world_files
from largegen.slides.gdal_file import import_rasterio
from largegen.slides.image_info import Georeference

MOST_OFF_PX = 0.5  # that control points may lie off the plane transform that fits them best


@dataclass(frozen=True)
class Place:
    """Where a scene lies, and how large its pixels are."""

    georeference: Georeference | None = None
    pixel: tuple[float, float] = (1.0, 1.0)  # width and height of a pixel: in metres if `metric`, else in any unit
    metric: bool = False
    lost: str = ""  # why what the file says of its place is not kept


def find_place(dataset: Any) -> Place:
    """Find where an open dataset of rasterio lies."""
    crs, transform, lost = dataset.crs or _crs_beside(dataset), dataset.transform, ""
    if transform.is_identity:
        points, crs = dataset.gcps[0], dataset.gcps[1] or crs
        transform, lost = _of_points(points)
        if not points:
            what = "the coefficients of a camera (RPC)" if dataset.rpcs else "a coordinate system alone" if crs else ""
            what = what or ("a world file that cannot be read" if world_files(Path(dataset.name)) else "")
            lost = f"its place on Earth is not kept: it is given by {what}, not by a transform" if what else ""
    if transform is None:
        return Place(lost=lost)
    a, b, c, d, e, f = (float(value) for value in transform[:6])
    geographic = crs is not None and crs.is_geographic  # degrees, of which those east and north are not as long
    width, height = (1.0, 1.0) if geographic else (math.hypot(a, d), math.hypot(b, e))
    metric = crs is not None and crs.is_projected
    factor = crs.linear_units_factor[1] if metric else 1.0
    text = crs.to_string() if crs else ""
    return Place(Georeference(text, (a, b, c, d, e, f)), (width * factor, height * factor), metric)


def _crs_beside(dataset: Any) -> Any:
    """Read the .prj that goes with a world file, which GDAL does not; None where there is none."""
    path = Path(dataset.name).with_suffix(".prj")
    if not path.is_file():
        return None
    rasterio = import_rasterio()
    try:
        with rasterio.Env():  # which hears what GDAL would print
            return rasterio.crs.CRS.from_wkt(path.read_text(encoding="utf-8", errors="replace"))
    except rasterio.errors.CRSError:
        say_once(f"{path}: no coordinate system that can be read; left out")
        return None


def place_of_image(path: Path) -> Place:
    """Find where an image lies that has a world file or GDAL's .aux.xml beside it."""
    rasterio = import_rasterio()
    try:
        with rasterio.open(path) as dataset:
            return find_place(dataset)
    except rasterio.errors.RasterioError:
        return Place(lost="its place on Earth is not kept: the world file beside it cannot be read")


def _of_points(points: Any) -> tuple[Any, str]:
    """Fit a plane transform to control points; None, and why, where none fits."""
    if not points:
        return None, ""
    try:
        transform = import_rasterio().transform.from_gcps(points)
        back = [~transform * (point.x, point.y) for point in points]
    except Exception:  # GDAL's, for points in a line or at one place, and that of a transform without an inverse
        back = []
    off = [math.hypot(x - point.col, y - point.row) for (x, y), point in zip(back, points, strict=False)]
    if off and max(off) <= MOST_OFF_PX:
        return transform, ""
    return None, f"its place on Earth is not kept: its {len(points)} control points fit no plane transform"
