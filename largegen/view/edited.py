"""The edited part of an image as a layer: the outlines that `largegen edit` leaves beside it."""

import json
from pathlib import Path
from typing import Any

from largegen.errors import InputError

MOST_CORNERS = 500_000  # of all outlines: more would make the page slow, and none of ours has so many

Ring = list[tuple[float, float]]


def edited_data(path: Path) -> dict[str, Any]:
    """Read outlines from GeoJSON, as a layer of shapes: each a name and rings, the first around the others, plane px.

    Raises:
        InputError: the file holds none.
    """
    try:
        features = json.loads(path.read_text(encoding="utf-8"))["features"]
        shapes = [shape for feature in features for shape in _shapes(feature)]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not readable as GeoJSON: {type(error).__name__}") from error
    if not shapes or sum(len(ring) for shape in shapes for ring in shape["rings"]) > MOST_CORNERS:
        raise InputError(f"{path}: {'too many outlines' if shapes else 'no outlines'}")
    names = sorted({str(shape["name"]) for shape in shapes}, reverse=True)
    return {"kind": "shapes", "shapes": shapes, "legend": ", ".join(names)}


def _shapes(feature: dict[str, Any]) -> list[dict[str, Any]]:
    geometry = feature["geometry"]
    polygons = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
    name = str(feature.get("properties", {}).get("classification", {}).get("name", ""))
    return [{"name": name, "rings": [_ring(ring) for ring in polygon]} for polygon in polygons]


def _ring(corners: list[Any]) -> Ring:
    return [(float(corner[0]), float(corner[1])) for corner in corners]
