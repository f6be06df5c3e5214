"""What TIFF, OME-TIFF and world files say of an image's size, resolution and place."""

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING

import tifffile

from largegen.slides.image_info import ImageInfo
from largegen.version import __version__

if TYPE_CHECKING:
    from largegen.slides.image_info import Georeference


def ome_xml(info: ImageInfo) -> str:
    """Write OME-XML of the 2016-06 schema for one RGB plane, in ASCII; the provenance is its annotation."""
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


def world_file_path(path: Path) -> Path:
    """Name the world file of an image: .tfw, .pgw or .jgw."""
    suffix = path.suffix.lower()
    return path.with_suffix(f".{suffix[1]}{suffix[-1]}w")


def world_lines(georeference: "Georeference") -> str:
    """Write the content of a world file."""
    a, b, c, d, e, f = georeference.transform[:6]
    # A world file gives the centre of the first pixel, the transform its corner.
    lines = (a, d, b, e, c + (a + b) / 2, f + (d + e) / 2)
    return "".join(f"{float(value)!r}\n" for value in lines)


def clear_resolution(path: Path) -> None:
    """Set ResolutionUnit to "none" in each page of a TIFF: libvips cannot leave it out."""
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for page in tiff.pages:
            page.aspage().tags["ResolutionUnit"].overwrite(tifffile.RESUNIT.NONE)
