"""What TIFF, OME-TIFF and world files say of an image's size, resolution and place."""

import struct
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING

from largegen.slides.image_info import ImageInfo
from largegen.version import __version__

if TYPE_CHECKING:
    from largegen.slides.image_info import Georeference


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
    """Name and content of the world file of an image: .tfw, .pgw, .jgw."""
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
