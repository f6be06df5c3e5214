"""What the tags of a TIFF say, read with tifffile: its pages, their compression, whether it lies on Earth."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

LOSSY_COMPRESSIONS = (6, 7, 33003, 33004, 33005, 34712, 50001)  # JPEG old and new, JPEG 2000 (also Aperio's), WebP
MAX_PAGES = 64  # looked at for levels; a stack of images has more, and none of its pages is a level
STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # classic TIFF and BigTIFF, in both byte orders


@dataclass(frozen=True)
class TiffHeader:
    """What a TIFF says of its first page, and which pages show the same, smaller."""

    description: str = ""  # ImageDescription: a maker's text, OME-XML or provenance
    lossy: bool = False  # JPEG or the like stored the pixels
    georeferenced: bool = False  # a GeoTIFF with a transform to world coordinates
    levels: tuple[dict[str, int], ...] = ({},)  # libvips' options that open each level, the largest first


def read_tiff_header(path: Path) -> TiffHeader | None:
    """Read the tags of a TIFF; None for a file that does not begin as one, or whose tags cannot be read."""
    with path.open("rb") as file:
        if file.read(4) not in STARTS:
            return None
    import tifffile

    logging.getLogger("tifffile").addHandler(_SILENT)  # its remarks on odd tags; what matters is an exception
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
            return TiffHeader(
                description=str(page.description),
                lossy=int(page.compression) in LOSSY_COMPRESSIONS,
                georeferenced=_is_georeferenced(page),
                levels=_find_levels(tiff),
            )
    except Exception:  # of a damaged file, in as many kinds as there are ways to be damaged; the reader says which
        return None


_SILENT = logging.NullHandler()


def _is_georeferenced(page: "TiffPage") -> bool:
    """Whether a page has a coordinate reference system and a transform (OGC GeoTIFF 1.1)."""
    tags = {tag.name for tag in page.tags}
    return "GeoKeyDirectoryTag" in tags and (
        "ModelTransformationTag" in tags or {"ModelPixelScaleTag", "ModelTiepointTag"} <= tags
    )


def _find_levels(tiff: "TiffFile") -> tuple[dict[str, int], ...]:
    """Find the pages or SubIFDs that are smaller versions of the first: same shape, bands and tiling."""
    first = tiff.pages.first
    if first.pages:
        candidates = [({"subifd": index}, page.aspage()) for index, page in enumerate(first.pages)]
    else:
        others = range(1, min(len(tiff.pages), MAX_PAGES))
        candidates = [({"page": index}, tiff.pages[index].aspage()) for index in others]
    levels: list[dict[str, int]] = [{}]
    smallest = first
    for options, page in candidates:
        ratio = first.imagewidth / page.imagewidth
        if (
            page.imagewidth < smallest.imagewidth
            and page.imagelength < smallest.imagelength
            and abs(first.imagelength / ratio - page.imagelength) <= 2
            and page.samplesperpixel == first.samplesperpixel
            and page.is_tiled == first.is_tiled  # an Aperio thumbnail has the slide's shape too, but lies in strips
        ):
            levels.append(options)
            smallest = page
    return tuple(levels)
