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


@dataclass(frozen=True)
class Georeference:
    """Where a scene lies.

    World x = a * column + b * row + c, world y = d * column + e * row + f, of a pixel's corner (rasterio's order).
    """

    crs: str  # coordinate reference system: "EPSG:n" or WKT; "" where it is not known
    transform: tuple[float, float, float, float, float, float]  # a, b, c, d, e, f


@dataclass(frozen=True)
class ImageInfo:
    """What an image file says about itself."""

    width: int  # px
    height: int  # px
    mpp: float | None = None  # um per px (slides)
    gsd_m: float | None = None  # metres per px (scenes)
    georeference: Georeference | None = None  # of this image: its transform maps its own pixels (scenes)
    mpp_from: str | None = None  # "objective" where nothing but the reference's objective tells `mpp`
    description: str = ""  # one line for people
    provenance: dict[str, Any] = field(default_factory=dict)  # command, model, encoder, licence, seed...: JSON values

    def record(self) -> dict[str, Any]:
        """Return the dict that `<out>.json` and the file itself carry; read_provenance reads it back."""
        known: dict[str, Any] = {"mpp": self.mpp, "mpp_from": self.mpp_from, "gsd_m": self.gsd_m}
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
        """Describe the same image, shrunk to a `shrink`-th in each direction; `more` joins the provenance."""
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
        """Describe a sheet of patches at a `shrink`-th of this resolution, which as a whole lies nowhere."""
        return replace(
            self,
            mpp=self.mpp and self.mpp * shrink,
            gsd_m=self.gsd_m and self.gsd_m * shrink,
            georeference=None,
            provenance={name: value for name, value in self.provenance.items() if name != "reference_xy"},
        )

    def text(self) -> str:
        """Write the record as ASCII JSON spread over lines: what viewers show as the image's description."""
        return json.dumps(self.record(), indent=1, default=str)


def sidecar(path: Path) -> Path:
    """Name the JSON file beside an image."""
    return path.with_name(f"{path.name}.json")


def read_provenance(path: Path, header: str | None = None) -> dict[str, Any] | None:
    """Read what an image says of its making.

    Args:
        path: the image.
        header: the text that its header carries, where a reader has it already.

    Returns:
        What ImageInfo.record wrote, from the file itself or from `<path>.json`; None if it is not an image of ours.
    """
    path = Path(path)
    record = find_record(_read_header(path) if header is None else header)
    if record is None and path.exists() and sidecar(path).exists():
        with contextlib.suppress(OSError, UnicodeDecodeError):
            record = find_record(sidecar(path).read_text(encoding="utf-8"))
    return record


def header_text(image: "pyvips.Image") -> str:
    """Collect all the text that the header of an image, as libvips has it open, carries."""
    fields = image.get_fields()
    names = [name for name in fields if name == "image-description" or name.startswith("png-comment-")]
    texts = [str(image.get(name)) for name in names]
    if "exif-data" in fields:  # libvips shortens the values that it takes from it
        texts.append(image.get("exif-data").decode("ascii", "replace"))
    return "\n".join(texts)


def _read_header(path: Path) -> str:
    import pyvips

    try:
        return header_text(pyvips.Image.new_from_file(str(path), access="sequential", revalidate=True))
    except pyvips.Error:
        return ""


def find_record(text: str) -> dict[str, Any] | None:
    """Find what ImageInfo.record wrote in a text; None where it is not there."""
    if text.startswith("<?xml") and "generated_by" in text:  # OME-XML
        with contextlib.suppress(ET.ParseError):
            text = ET.fromstring(text).findtext(".//{*}CommentAnnotation/{*}Value", default="")
    start = re.search(r'\{\s*"generated_by":\s*"largegen ', text)
    if start is None:
        return None
    try:
        record: dict[str, Any] = json.JSONDecoder().raw_decode(text[start.start() :])[0]
    except json.JSONDecodeError:
        return None
    return record
