"""Resolution and magnification from what an image's header says, under OpenSlide's names of properties.

A resolution that no microscope can have, such as 72 dpi, is none. `mpp-y` is there only where `mpp-x` is.
"""

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

from largegen.slides.deepzoom_reader import NoDoctype
from largegen.slides.ome import number
from largegen.slides.tiff import TiffHeader

MPP_RANGE = (0.02, 10.0)  # micrometres per pixel that a microscope can mean; 72 dpi is 353, 2400 dpi is 10.6
MPP_KEYS = ("openslide.mpp-x", "openslide.mpp-y")
AXES_APART = 0.01  # pixels whose sides differ by less than this part are square: makers' roundings


def tiff_properties(tiff: TiffHeader) -> dict[str, str]:
    """Read the properties of a TIFF from its header.

    Returns:
        openslide.vendor; where they are known openslide.mpp-x and -y (um per pixel) and openslide.objective-power; of
        an Aperio slide also its own fields as aperio.NAME.
    """
    found = {"openslide.vendor": "tiff"}
    if tiff.description.startswith("Aperio"):
        found |= {"openslide.vendor": "aperio"} | _aperio(tiff.description)
    elif tiff.ome:
        found["openslide.vendor"] = "ome"
        found |= _sizes(tiff.ome.mpp) | (
            {"openslide.objective-power": tiff.ome.objective} if tiff.ome.objective else {}
        )
    elif "PerkinElmer-QPI" in tiff.description:
        found |= _perkin_elmer(tiff.description)
    found = completed(found)
    if MPP_KEYS[0] not in found and tiff.mpp and all(MPP_RANGE[0] <= size <= MPP_RANGE[1] for size in tiff.mpp):
        found |= _sizes(tiff.mpp)
    return found


def image_properties(image: Any) -> dict[str, str]:
    """Read the properties of a PNG, JPEG or the like that libvips has open: a pyvips.Image."""
    fields = image.get_fields()
    found = {"openslide.vendor": image.get("vips-loader").removesuffix("load") if "vips-loader" in fields else ""}
    if image.xres > 0 and image.yres > 0:
        mpp = (1000 / image.xres, 1000 / image.yres)  # libvips gives pixels per millimetre
        if all(MPP_RANGE[0] <= size <= MPP_RANGE[1] for size in mpp):
            found |= _sizes(mpp)
    return found


def completed(properties: Mapping[str, str]) -> dict[str, str]:
    """Fill in resolution and objective from a maker's own fields, where OpenSlide's are missing or are no numbers."""
    found = dict(properties)
    for ours, theirs in (("mpp-x", "MPP"), ("mpp-y", "MPP"), ("objective-power", "AppMag")):
        key = f"openslide.{ours}"
        value = number(found.get(key)) or number(found.get(f"aperio.{theirs}"))
        found.pop(key, None)
        if value:
            found[key] = f"{value:.10g}"
    return found


def size_of_pixels(properties: Mapping[str, str]) -> tuple[float, float] | None:
    """Return the micrometres per pixel (x, y); the same where they differ by a rounding only; None where unknown."""
    x = number(properties.get(MPP_KEYS[0]))
    y = number(properties.get(MPP_KEYS[1])) or x
    if not x or not y:
        return None
    return (x, x) if abs(y / x - 1) <= AXES_APART else (x, y)


def positive(value: object) -> float | None:
    """Read a property as a positive number; None where it is missing or not one."""
    return number(value)


def _sizes(mpp: tuple[float, float] | None) -> dict[str, str]:
    return {key: f"{size:.6g}" for key, size in zip(MPP_KEYS, mpp, strict=True)} if mpp else {}


def _aperio(description: str) -> dict[str, str]:
    """Fields of an Aperio description: a line of text, then |NAME = value, many times."""
    pairs = (part.split("=", 1) for part in description.split("|")[1:] if "=" in part)
    return {f"aperio.{key.strip()}": value.strip() for key, value in pairs}


def _perkin_elmer(description: str) -> dict[str, str]:
    """Size of a pixel and objective from the XML of a QPTIFF."""
    try:
        root = ET.fromstring(description.strip("\0 \r\n\t"), ET.XMLParser(target=NoDoctype()))
    except (ET.ParseError, ValueError):
        return {}
    keys = {MPP_KEYS[0]: "PixelSizeMicrons", "openslide.objective-power": "Magnification"}
    return {key: text for key, name in keys.items() if (text := root.findtext(f".//{{*}}{name}", default="").strip())}
