"""Links from a report to the places of its crops in a viewer, the folder that `largegen view --export` writes."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from largegen.errors import InputError

INDEX = "viewer.json"  # in the folder: the page of each image, by the name of its file
CROP_ZOOM = 2.0  # CSS px per px of the image


@dataclass(frozen=True)
class ViewerLinks:
    """Where the images of a viewer are, as seen from a report."""

    folder: str  # address of the viewer, relative to the report's
    pages: dict[str, str]  # by the names of images' files

    @classmethod
    def open(cls, viewer: Path, report: Path) -> "ViewerLinks":
        """Read what pages a viewer has. Raises InputError where the folder is none."""
        try:
            pages = json.loads((viewer / INDEX).read_text(encoding="utf-8"))
            known = {str(name): str(page) for name, page in pages.items()}
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(f"`viewer` {viewer}: no folder that `largegen view --export` has written") from error
        return cls(Path(os.path.relpath(viewer, report.parent)).as_posix(), known)

    def to(self, image: Path, place: tuple[float, float] | None = None) -> str:
        """Link to an image, or to a place (x, y) of it in its px; "" for an image that the viewer lacks."""
        if image.name not in self.pages:
            return ""
        address = quote(f"{self.folder}/{self.pages[image.name]}")
        return address if place is None else f"{address}#{place[0]:.0f},{place[1]:.0f},{CROP_ZOOM:g}"
