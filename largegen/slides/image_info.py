"""What an image file says about itself: size, resolution, place, provenance.

Nothing is invented: a resolution that is not known is left out of the file, or marked as none.
"""

import contextlib
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from largegen.version import __version__

if TYPE_CHECKING:
    import pyvips

    from largegen.slides.geotiff import Georeference


@dataclass(frozen=True)
class ImageInfo:
    """What an image file says about itself."""

    width: int  # px
    height: int  # px
    mpp: float | None = None  # um per px (slides)
    gsd_m: float | None = None  # metres per px (scenes)
    georeference: "Georeference | None" = None  # of this image: its transform maps its own pixels (scenes)
    description: str = ""  # one line for people
    provenance: dict = field(default_factory=dict)  # command, model, encoder, licence, seed...: JSON values

    def record(self) -> dict:
        """The dict that `<out>.json` and the file itself carry; read_provenance returns it."""
        known = {"mpp": self.mpp, "gsd_m": self.gsd_m}
        if self.georeference is not None:
            known |= {"crs": self.georeference.crs, "transform": list(self.georeference.transform)}
        return {
            "generated_by": f"largegen {__version__}",
            "description": self.description,
            "width": self.width,
            "height": self.height,
            **{key: value for key, value in known.items() if value is not None},
            **self.provenance,
        }

    def at(self, shrink: int, more: Mapping[str, Any]) -> "ImageInfo":
        """Of the same image, shrunk to a `shrink`-th in each direction; `more` joins the provenance."""
        place = self.georeference
        if place is not None:
            a, b, c, d, e, f = place.transform
            place = replace(place, transform=(a * shrink, b * shrink, c, d * shrink, e * shrink, f))
        return replace(
            self,
            width=self.width // shrink,
            height=self.height // shrink,
            mpp=self.mpp and self.mpp * shrink,
            gsd_m=self.gsd_m and self.gsd_m * shrink,
            georeference=place,
            provenance={**self.provenance, **more},
        )

    def of_a_sheet(self, shrink: int) -> "ImageInfo":
        """Of a sheet of patches at a `shrink`-th of this resolution, which as a whole lies nowhere."""
        return replace(
            self,
            mpp=self.mpp and self.mpp * shrink,
            gsd_m=self.gsd_m and self.gsd_m * shrink,
            georeference=None,
            provenance={name: value for name, value in self.provenance.items() if name != "reference_xy"},
        )

    def text(self) -> str:
        """The record as ASCII JSON spread over lines: what viewers show as the image's description."""
        return json.dumps(self.record(), indent=1, default=str)


def sidecar(path: Path) -> Path:
    """The JSON file beside an image."""
    return path.with_name(f"{path.name}.json")


def read_provenance(path: Path, image: "pyvips.Image | None" = None) -> dict | None:
    """Return what an image says of its making: ImageInfo.record, from the file itself or `<path>.json`.

    image: the file as libvips has it open, where it does. None if `path` is not an image of ours.
    """
    path = Path(path)
    image = image or _open(path)
    record = _find_record(_header_text(image)) if image else None
    if record is None and path.exists() and sidecar(path).exists():
        with contextlib.suppress(OSError, UnicodeDecodeError):
            record = _find_record(sidecar(path).read_text(encoding="utf-8"))
    return record


def _open(path: Path) -> "pyvips.Image | None":
    import pyvips

    try:
        return pyvips.Image.new_from_file(str(path), access="sequential", revalidate=True)
    except pyvips.Error:
        return None


def _header_text(image: "pyvips.Image") -> str:
    """All the text that an image's header carries."""
    fields = image.get_fields()
    names = [name for name in fields if name == "image-description" or name.startswith("png-comment-")]
    texts = [image.get(name) for name in names]
    if "exif-data" in fields:  # libvips shortens the values that it takes from it
        texts.append(image.get("exif-data").decode("ascii", "replace"))
    if texts and texts[0].startswith("<?xml") and "generated_by" in texts[0]:
        with contextlib.suppress(ET.ParseError):
            texts[0] = ET.fromstring(texts[0]).findtext(".//{*}CommentAnnotation/{*}Value", default="")
    return "\n".join(texts)


def _find_record(text: str) -> dict | None:
    start = re.search(r'\{\s*"generated_by":\s*"largegen ', text)
    if start is None:
        return None
    try:
        return json.JSONDecoder().raw_decode(text[start.start() :])[0]
    except json.JSONDecodeError:
        return None
