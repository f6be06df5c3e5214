"""Which pixels of an image are meant: a rectangle, a PNG, or polygons of GeoJSON as QuPath writes them."""

import json
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from largegen.errors import InputError, first_line

if TYPE_CHECKING:
    import pyvips

Bounds = tuple[int, int, int, int]  # left, top, right, bottom, in px; right and bottom are outside
CHECKED_AT_ONCE = 2**22  # pairs of a polygon's sides


@dataclass(frozen=True)
class Mask:
    """Some pixels of an image."""

    bounds: Bounds  # of the pixels, inside the image
    image: "pyvips.Image | None" = None  # of one band, 0 or 255, of a mask that is one; else:
    shapes: tuple[dict[str, Any], ...] = ()  # GeoJSON polygons; neither: all of the bounds

    def read(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Return which pixels of a rectangle are meant, (height, width) bool; the rectangle may leave the image."""
        found = np.zeros((height, width), bool)
        left, top, right, bottom = self.bounds
        left, right = (min(max(v - x, 0), width) for v in (left, right))
        top, bottom = (min(max(v - y, 0), height) for v in (top, bottom))
        if left >= right or top >= bottom:
            return found
        inside = slice(top, bottom), slice(left, right)
        if self.image is not None:
            found[inside] = self.image.crop(x + left, y + top, right - left, bottom - top).numpy() > 0
        elif self.shapes:
            found[inside] = _rasterize(self.shapes, x + left, y + top, right - left, bottom - top)
        else:
            found[inside] = True
        return found


def open_mask(given: str, size: tuple[int, int], field: str = "mask") -> Mask:
    """Open a mask of an image.

    Args:
        given: `X,Y,W,H` in px, or the path of a PNG of the image's size (all but black is meant) or of a GeoJSON file.
        size: (width, height) of the image, in px.
        field: the parameter, for messages.

    Raises:
        InputError: for a mask that is none, of another size, empty or outside, and for polygons that cross themselves.
    """
    what = f"`{field}` {given}"
    if match := re.fullmatch(r"(-?\d+),(-?\d+),(\d+),(\d+)", given.replace(" ", "")):
        x, y, width, height = map(int, match.groups())
        return Mask(_inside((x, y, x + width, y + height), size, what))
    path = Path(given)
    if not path.is_file():
        raise InputError(f"{what}: give X,Y,W,H, or a PNG or GeoJSON file that is there")
    if path.suffix.lower() == ".png":
        return _of_image(path, size, what)
    return _of_polygons(path, size, what)


def _inside(bounds: Bounds, size: tuple[int, int], what: str) -> Bounds:
    left, top, right, bottom = bounds
    if left >= right or top >= bottom:
        raise InputError(f"{what}: is empty")
    if left < 0 or top < 0 or right > size[0] or bottom > size[1]:
        raise InputError(f"{what}: leaves the image of {size[0]}x{size[1]} px")
    return bounds


def _of_image(path: Path, size: tuple[int, int], what: str) -> Mask:
    import pyvips

    try:
        # A large one is unpacked to a temporary file.
        image = pyvips.Image.new_from_file(str(path), fail_on="truncated", revalidate=True)
        found = image.width, image.height
        if found != size:
            raise InputError(f"{what}: {found[0]}x{found[1]} px, but the image has {size[0]}x{size[1]}")
        colours = image[: image.bands - 1] if image.hasalpha() else image
        meant = (colours > 0).bandor()
        cols, rows = (np.flatnonzero(sums.numpy()) for sums in meant.project())
    except pyvips.Error as error:
        raise InputError(f"{what}: not readable as an image: {' '.join(str(error).split())}") from error
    if not len(rows):
        raise InputError(f"{what}: is empty: all of it is black")
    return Mask((int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1), meant)


def _of_polygons(path: Path, size: tuple[int, int], what: str) -> Mask:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        shapes = tuple(_polygons(content))
        rings = [np.asarray(ring, float)[:, :2] for shape in shapes for ring in shape["coordinates"]]
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise InputError(f"{what}: not readable as polygons of GeoJSON: {first_line(error)}") from error
    if not rings:
        raise InputError(f"{what}: holds no polygon")
    for ring in rings:
        if len(ring) < 4 or not np.isfinite(ring).all():
            raise InputError(f"{what}: a polygon of {len(ring)} corners is none")
        if place := _crossing(ring):
            raise InputError(f"{what}: a polygon crosses itself near {place[0]:.0f},{place[1]:.0f}")
    corners = np.concatenate(rings)
    (left, top), (right, bottom) = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int)
    bounds = _inside((int(left), int(top), int(right), int(bottom)), size, what)
    mask = Mask(bounds, shapes=shapes)
    if max(right - left, bottom - top) < 64 and not mask.read(left, top, right - left, bottom - top).any():
        raise InputError(f"{what}: is empty: its polygons hold no pixel's centre")
    return mask


def _polygons(content: Any) -> Iterator[dict[str, Any]]:
    """Yield the polygons of a FeatureCollection, a list of features, a feature or a geometry, one by one."""
    if isinstance(content, list):
        for one in content:
            yield from _polygons(one)
        return
    kind = content["type"]
    if kind == "FeatureCollection":
        yield from _polygons(content["features"])
    elif kind == "Feature":
        yield from _polygons(content["geometry"])
    elif kind == "GeometryCollection":
        yield from _polygons(content["geometries"])
    elif kind == "MultiPolygon":
        yield from ({"type": "Polygon", "coordinates": one} for one in content["coordinates"])
    elif kind == "Polygon":
        yield {"type": "Polygon", "coordinates": content["coordinates"]}
    else:
        raise ValueError(f"{kind} is no polygon")


def _crossing(ring: np.ndarray) -> tuple[float, float] | None:
    """Find where a closed ring (n, 2) crosses itself: a side that properly crosses another."""
    ring = ring if (ring[0] == ring[-1]).all() else np.concatenate([ring, ring[:1]])
    a, b = ring[:-1], ring[1:]
    count, step = len(a), max(1, CHECKED_AT_ONCE // len(a))

    def side(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> np.ndarray:
        turned: np.ndarray = np.sign((q - p)[..., 0] * (r - p)[..., 1] - (q - p)[..., 1] * (r - p)[..., 0])
        return turned

    for first in range(0, count, step):
        p, q = a[first : first + step, None], b[first : first + step, None]
        r, s = a[None], b[None]
        crosses = (side(p, q, r) * side(p, q, s) < 0) & (side(r, s, p) * side(r, s, q) < 0)
        if crosses.any():
            x, y = a[first + int(np.argwhere(crosses)[0, 0])]
            return float(x), float(y)
    return None


def _rasterize(shapes: Sequence[dict[str, Any]], x: int, y: int, width: int, height: int) -> np.ndarray:
    """Draw polygons on a rectangle: (height, width) bool, True where a pixel's centre lies in one."""
    import rasterio.features

    place = rasterio.Affine.translation(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        drawn = rasterio.features.rasterize(shapes, (height, width), transform=place, dtype="uint8")
    return np.asarray(drawn, bool)


def outlines(
    bands: Iterable[np.ndarray], size: tuple[int, int], place: tuple[int, int], names: Sequence[str]
) -> list[dict[str, Any]]:
    """Draw round the pixels of some classes: GeoJSON features, which QuPath takes as annotations.

    Args:
        bands: (h, width) uint8 from top to bottom: 0 for no class, k for names[k - 1].
        size: (height, width) of all bands together.
        place: (x, y) of their corner, in px of the image.
        names: of the annotations' classes.
    """
    import rasterio.features
    from rasterio.io import MemoryFile

    shape = {"height": size[0], "width": size[1], "count": 1, "dtype": "uint8"}
    with warnings.catch_warnings(), MemoryFile() as file:
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        at = rasterio.Affine.translation(*place)
        with file.open(driver="GTiff", compress="deflate", bigtiff="if_safer", transform=at, **shape) as written:
            top = 0
            for band in bands:
                written.write(band[None], window=((top, top + len(band)), (0, size[1])))
                top += len(band)
        with file.open() as read:  # polygons are drawn line by line
            classes = rasterio.band(read, 1)
            drawn = sorted(rasterio.features.shapes(classes, classes, transform=at), key=lambda found: found[1])
    return [
        {
            "type": "Feature",
            "geometry": geometry,
            "properties": {"objectType": "annotation", "classification": {"name": names[int(kind) - 1]}},
        }
        for geometry, kind in drawn
    ]
