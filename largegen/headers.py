"""What a picture file says about itself: size, resolution, place, provenance; in each format, and back.

Nothing is invented: a resolution that is not known is left out of the file, or marked as none.
"""

import contextlib
import json
import re
import struct
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from largegen import __version__

if TYPE_CHECKING:
    import pyvips

    from largegen.slide import Georeference


@dataclass(frozen=True)
class ImageInfo:
    """What a picture file says about itself."""

    width: int  # px
    height: int  # px
    mpp: float | None = None  # um per px (slides)
    gsd_m: float | None = None  # metres per px (scenes)
    georeference: "Georeference | None" = None  # of this picture: its transform maps its own pixels (scenes)
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
        """Of the same picture, shrunk to a `shrink`-th in each direction; `more` joins the provenance."""
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
    """The JSON file beside a picture."""
    return path.with_name(f"{path.name}.json")


def read_provenance(path: Path, image: "pyvips.Image | None" = None) -> dict | None:
    """Return what a picture says of its making: ImageInfo.record, from the file itself or `<path>.json`.

    image: the file as libvips has it open, where it does. None if `path` is not a picture of ours.
    """
    path = Path(path)
    image = image or _open(path)
    record = _find_record(_header_text(image)) if image else None
    if record is None and path.exists() and sidecar(path).exists():
        with contextlib.suppress(OSError, UnicodeDecodeError):
            record = _find_record(sidecar(path).read_text())
    return record


def _open(path: Path) -> "pyvips.Image | None":
    import pyvips

    try:
        return pyvips.Image.new_from_file(str(path), access="sequential", revalidate=True)
    except pyvips.Error:
        return None


def _header_text(image: "pyvips.Image") -> str:
    """All the text that a picture's header carries."""
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


def ome_xml(info: ImageInfo) -> str:
    """OME-XML of the 2016-06 schema for one RGB plane; the provenance is its annotation. ASCII."""
    physical = {}
    if size := info.mpp or info.gsd_m:
        unit = "µm" if info.mpp else "m"
        physical = {"PhysicalSizeX": str(float(size)), "PhysicalSizeXUnit": unit}
        physical |= {"PhysicalSizeY": str(float(size)), "PhysicalSizeYUnit": unit}
    schema = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    ome = ET.Element("OME", {"xmlns": schema, "Creator": f"largegen {__version__}"})
    image = ET.SubElement(ome, "Image", ID="Image:0", Name="generated")
    ET.SubElement(image, "Description").text = info.description
    layout = {"DimensionOrder": "XYCZT", "Type": "uint8", "Interleaved": "true", "BigEndian": "false"}
    sizes = {"SizeX": str(info.width), "SizeY": str(info.height), "SizeC": "3", "SizeZ": "1", "SizeT": "1"}
    pixels = ET.SubElement(image, "Pixels", {"ID": "Pixels:0"} | layout | sizes | physical)
    ET.SubElement(pixels, "Channel", ID="Channel:0:0", SamplesPerPixel="3")
    ET.SubElement(pixels, "TiffData", IFD="0", PlaneCount="1")
    ET.SubElement(image, "AnnotationRef", ID="Annotation:0")
    annotations = ET.SubElement(ome, "StructuredAnnotations")
    annotation = ET.SubElement(annotations, "CommentAnnotation", ID="Annotation:0", Namespace="largegen")
    ET.SubElement(annotation, "Value").text = info.text()
    xml = ET.tostring(ome, encoding="us-ascii", xml_declaration=False).decode()
    return f'<?xml version="1.0" encoding="UTF-8"?>{xml}'


def world_file(path: Path, georeference: "Georeference") -> tuple[Path, str]:
    """Name and content of the world file of a picture: .tfw, .pgw, .jgw."""
    suffix = path.suffix.lower()
    a, b, c, d, e, f = georeference.transform[:6]
    # A world file gives the centre of the first pixel, the transform its corner.
    lines = (a, d, b, e, c + (a + b) / 2, f + (d + e) / 2)
    return path.with_suffix(f".{suffix[1]}{suffix[-1]}w"), "".join(f"{float(value)!r}\n" for value in lines)


def raw_tiff_header(width: int, height: int, strip_rows: int = 16) -> bytes:
    """The start of an uncompressed BigTIFF; its (height, width, 3) uint8 pixels follow, row by row."""
    strips = -(-height // strip_rows)
    entries = 9
    arrays = 16 + 8 + entries * 20 + 8  # header, number of entries, entries, "no next page"
    offset = arrays + 2 * strips * 8
    starts = [offset + strip * strip_rows * width * 3 for strip in range(strips)]
    ends = [*starts[1:], offset + height * width * 3]
    counts = [end - start for start, end in zip(starts, ends, strict=True)]
    short, long8 = 3, 16
    tags = [
        (256, long8, 1, width),
        (257, long8, 1, height),
        (258, short, 3, 8 | 8 << 16 | 8 << 32),  # bits per sample
        (259, short, 1, 1),  # no compression
        (262, short, 1, 2),  # RGB
        (273, long8, strips, arrays if strips > 1 else starts[0]),
        (277, short, 1, 3),  # samples per pixel
        (278, long8, 1, strip_rows),
        (279, long8, strips, arrays + strips * 8 if strips > 1 else counts[0]),
    ]
    head = struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, entries)
    page = b"".join(struct.pack("<HHQQ", *tag) for tag in tags)
    return head + page + struct.pack(f"<Q{2 * strips}Q", 0, *starts, *counts)


def clear_resolution(path: Path) -> None:
    """Set ResolutionUnit to 1 ("none") in each page of a TIFF: libvips cannot leave it out."""
    with path.open("r+b") as file:
        order = {b"II": "<", b"MM": ">"}[file.read(2)]

        def read(layout: str) -> tuple:
            return struct.unpack(order + layout, file.read(struct.calcsize(order + layout)))

        big = read("H") == (43,)
        count, offset, entry_bytes = ("Q", "Q", 20) if big else ("H", "I", 12)
        file.seek(8 if big else 4)
        while page := read(offset)[0]:
            file.seek(page)
            entries = read(count)[0]
            first = file.tell()
            for entry in range(first, first + entries * entry_bytes, entry_bytes):
                file.seek(entry)
                if read("H") == (296,):  # ResolutionUnit: tag, type, count, value
                    file.seek(entry + (12 if big else 8))
                    file.write(struct.pack(order + "H", 1))
            file.seek(first + entries * entry_bytes)
