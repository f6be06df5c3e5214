"""Which reader opens a file; `slide.py` is the interface over all of them.

libvips is fast and reads TIFF, SVS (JPEG), OME-TIFF, PNG and JPEG; OpenSlide reads JPEG 2000 SVS and the
makers' own formats (NDPI, MRXS, SCN, BIF, DICOM); deepzoom_reader.py reads DeepZoom trees. All readers give the same
things: `levels`, `properties` (OpenSlide's names), `provenance` (of images of ours, else empty), `lossy` (whether
JPEG or the like stored the pixels), and `read`.
"""

from pathlib import Path

from largegen.errors import UnreadablePixels
from largegen.slides.deepzoom_reader import DeepZoomReader
from largegen.slides.openslide_reader import OpenSlideReader
from largegen.slides.vips_reader import VipsReader

VIPS_VENDORS = (
    None,
    "aperio",
    "generic-tiff",
)  # OpenSlide's names of formats that libvips reads as well, and faster


def open_reader(path: Path, check: bool = True) -> "VipsReader | OpenSlideReader | DeepZoomReader":
    """Open `path` with what suits its format; check: and read two pixels of each level.

    Raises SlideError if nothing can read it.
    """
    if path.suffix.lower() == ".dzi":
        return DeepZoomReader(path, check)
    import openslide

    try:
        vendor = openslide.OpenSlide.detect_format(path)
    except openslide.OpenSlideError:
        vendor = None
    if vendor not in VIPS_VENDORS:
        return OpenSlideReader(path, check)
    try:
        return VipsReader(path, check)
    except UnreadablePixels:
        if vendor is None:
            raise
        return OpenSlideReader(path, check)  # a TIFF with a compression that libvips lacks, such as JPEG 2000
