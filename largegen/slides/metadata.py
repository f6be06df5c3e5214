"""Resolution and magnification from what an image's header says, under OpenSlide's names of properties."""

import math
import re
from typing import Any

MPP_RANGE = (0.02, 10.0)  # micrometres per pixel that a microscope can mean; 72 dpi is 353, 2400 dpi is 10.6
MICROMETRES = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}


def vips_properties(image: Any) -> dict[str, str]:
    """Read the properties of a file that libvips has open.

    Args:
        image: pyvips.Image; its `xres` is in pixels per millimetre.

    Returns:
        openslide.vendor; where they are known openslide.mpp-x (um per pixel) and openslide.objective-power; of an
        Aperio slide also its own fields as aperio.NAME.
    """
    fields = image.get_fields()
    description = str(image.get("image-description")) if "image-description" in fields else ""
    properties = {"openslide.vendor": image.get("vips-loader").removesuffix("load") if "vips-loader" in fields else ""}
    if description.startswith("Aperio"):
        properties |= _aperio(description)
    elif pixels := re.search(r"<(?:\w+:)?Pixels\s[^>]*>", description):
        properties |= _ome(description, pixels[0])
    if "openslide.mpp-x" not in properties and image.xres > 0:
        mpp = 1000 / image.xres
        if MPP_RANGE[0] <= mpp <= MPP_RANGE[1]:
            properties["openslide.mpp-x"] = f"{mpp:.6g}"
    return properties


def positive(value: object) -> float | None:
    """Read a property as a positive number; None where it is missing or not one."""
    try:
        number = float(str(value or ""))
    except ValueError:
        return None
    return number if number > 0 and math.isfinite(number) else None


def _aperio(description: str) -> dict[str, str]:
    """Fields of an Aperio description: a line of text, then |NAME = value, many times."""
    pairs = (part.split("=", 1) for part in description.split("|")[1:] if "=" in part)
    found = {f"aperio.{key.strip()}": value.strip() for key, value in pairs}
    for ours, theirs in (("mpp-x", "MPP"), ("objective-power", "AppMag")):
        if f"aperio.{theirs}" in found:
            found[f"openslide.{ours}"] = found[f"aperio.{theirs}"]
    return {"openslide.vendor": "aperio", **found}


def _ome(description: str, pixels: str) -> dict[str, str]:
    """Size of a pixel and the objective from OME-XML, whose element Pixels is `pixels`."""
    found = {"openslide.vendor": "ome"}
    attributes = dict(re.findall(r'(\w+)="([^"]*)"', pixels))
    unit = MICROMETRES.get(attributes.get("PhysicalSizeXUnit", "µm"))
    if unit and "PhysicalSizeX" in attributes:
        found["openslide.mpp-x"] = str(float(attributes["PhysicalSizeX"]) * unit)
    if power := re.search(r'NominalMagnification="([\d.]+)"', description):
        found["openslide.objective-power"] = power[1]
    return found
