"""What this tool writes beside its results, known again: previews, guides, levels, JSON files."""

import json
from pathlib import Path
from typing import Any

from largegen.slides.image_info import find_record, sidecar

PREVIEW_KEY, PREVIEW_TEXT = "Software", "largegen embed: preview"  # a text chunk near the start of the PNG
START_BYTES = 1024


def is_preview(path: Path) -> bool:
    """Tell whether a file is a preview that `largegen embed` has drawn."""
    if path.suffix.lower() != ".png":
        return False
    try:
        with path.open("rb") as file:
            return f"{PREVIEW_KEY}\0{PREVIEW_TEXT}".encode() in file.read(START_BYTES)
    except OSError:
        return False


def side_file(out: Path, what: str) -> Path:
    """Name the PNG beside an image that shows its guide or another magnification."""
    return out.with_name(f"{out.stem.removesuffix('.ome')}_{what}.png")


def made_path(out: Path) -> Path:
    """Name the GeoJSON file beside an image that says which part of it was made."""
    return out.with_name(f"{out.stem.removesuffix('.ome')}_made.geojson")


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """Read the JSON file that lies beside an image; None where there is none of ours."""
    try:
        return find_record(sidecar(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return None


def is_made_beside_an_image(path: Path) -> bool:
    """Tell whether an image is the guide or another level of one that `largegen zoom` made."""
    return path.suffix.lower() == ".png" and "guide" in (read_sidecar(path) or {})
