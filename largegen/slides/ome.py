"""What OME-XML, the description of an OME-TIFF, says of an image: size of a pixel, objective, channels, bits."""

import re
import unicodedata
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import Any

from largegen.slides.deepzoom_reader import NoDoctype

# In micrometres: OME's units of length; "pixel" and "reference frame" are none.
LENGTHS = {
    **{
        "ym": 1e-18,
        "zm": 1e-15,
        "am": 1e-12,
        "fm": 1e-9,
        "pm": 1e-6,
        "nm": 1e-3,
        "\u03bcm": 1.0,
        "um": 1.0,
        "micron": 1.0,
    },
    **{"mm": 1e3, "cm": 1e4, "dm": 1e5, "m": 1e6, "dam": 1e7, "hm": 1e8, "km": 1e9, "Mm": 1e12, "Gm": 1e15},
    **{"\u00c5": 1e-4, "thou": 25.4, "li": 25400 / 12, "in": 25400.0, "inch": 25400.0, "ft": 304800.0, "yd": 914400.0},
    **{"pt": 25400 / 72, "micrometer": 1.0, "micrometre": 1.0, "nanometer": 1e-3, "millimeter": 1e3},
}
COLOURS = ("red", "green", "blue")
PURE = {0xFF0000: "red", 0x00FF00: "green", 0x0000FF: "blue"}  # of a channel's Color, without its opacity
NAMELESS = re.compile(r"|(channel|ch|c)?[ _:#-]*\d+([ _:-]\d+)?|rgb|brightfield", re.IGNORECASE)
DYES = ("Fluor", "EmissionWavelength", "ExcitationWavelength")


@dataclass(frozen=True)
class Ome:
    """What one image of OME-XML says; None where it does not."""

    mpp: tuple[float, float] | None = None  # um per px: x, y
    objective: str | None = None  # nominal magnification
    bits: int | None = None  # significant bits of a sample
    channels: tuple[str, ...] = ()  # those that have a plane each: "red", "DAPI", or "" where nothing names one
    planes: int = 1  # focal planes and moments


def read_ome(description: str, width: int, height: int) -> Ome | None:
    """Read OME-XML; None where a description is no such, or damaged.

    Args:
        description: ImageDescription of the first page.
        width: of that page, in px; of several images the one of its size is meant.
        height: likewise.
    """
    text = description.strip("\0 \t\r\n\ufeff")
    if not text.startswith("<") or "OME" not in text[:2000]:
        return None
    try:
        root = ET.fromstring(text, ET.XMLParser(target=NoDoctype()))
    except (ET.ParseError, ValueError):
        return None
    images = root.findall("{*}Image")
    described = [(image, pixels) for image in images if (pixels := image.find("{*}Pixels")) is not None]
    if not described:
        return None
    fitting = [one for one in described if (one[1].get("SizeX"), one[1].get("SizeY")) == (str(width), str(height))]
    image, pixels = (fitting or described)[0]
    return Ome(
        mpp=_size(pixels),
        objective=_objective(root, image),
        bits=_whole(pixels.get("SignificantBits")),
        channels=_channels(pixels),
        planes=(_whole(pixels.get("SizeZ")) or 1) * (_whole(pixels.get("SizeT")) or 1),
    )


def micrometres(unit: str) -> float | None:
    """Return the micrometres in a unit of length, however its mu is written; None for other units."""
    name = unicodedata.normalize("NFKC", unit).strip()
    return LENGTHS.get(name) or LENGTHS.get(name.removesuffix("s"))


def number(value: object) -> float | None:
    """Read the number that a text begins with, its decimal sign a point or a comma; None for none above 0."""
    found = re.match(r"\s*\+?(\d+(?:[.,]\d*)?|[.,]\d+)(?:[eE]([+-]?\d+))?", str(value if value is not None else ""))
    if found is None:
        return None
    result = float(f"{found[1].replace(',', '.')}e{found[2] or 0}")
    return result if 0 < result < float("inf") else None


def _size(pixels: Any) -> tuple[float, float] | None:
    sizes = []
    for axis in "XY":
        size = number(pixels.get(f"PhysicalSize{axis}"))
        unit = micrometres(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        sizes.append(size * unit if size and unit else None)
    x, y = sizes
    return (x or y, y or x) if x or y else None  # type: ignore[return-value]


def _objective(root: Any, image: Any) -> str | None:
    objectives = {one.get("ID"): one for one in root.findall("{*}Instrument/{*}Objective")}
    settings = image.find("{*}ObjectiveSettings")
    one = objectives.get(settings.get("ID")) if settings is not None else next(iter(objectives.values()), None)
    return None if one is None else one.get("NominalMagnification") or one.get("CalibratedMagnification")


def _channels(pixels: Any) -> tuple[str, ...]:
    found = pixels.findall("{*}Channel")
    if any((_whole(one.get("SamplesPerPixel")) or 1) > 1 for one in found):
        return ()
    count = _whole(pixels.get("SizeC")) or len(found) or 1
    return tuple(_name(found[i]) if i < len(found) else "" for i in range(count))


def _name(channel: Any) -> str:
    """Name a channel: by its own name, else its pure colour, else its dye."""
    name = (channel.get("Name") or "").strip()
    if any(channel.get(key) for key in DYES):
        return name or next(f"{channel.get(key)}" for key in DYES if channel.get(key))
    if short := {"r": "red", "g": "green", "b": "blue"}.get(name.lower()):
        return short
    if not NAMELESS.fullmatch(name):
        return name.lower() if name.lower() in COLOURS else name
    try:
        return PURE.get((int(channel.get("Color", "")) & 0xFFFFFFFF) >> 8, "")
    except ValueError:
        return ""


def _whole(text: str | None) -> int | None:
    return int(text) if text and text.strip().isdecimal() else None
