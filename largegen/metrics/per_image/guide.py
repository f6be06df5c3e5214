"""How well an image of `largegen zoom` agrees with its guide: the figure that zoom reports, from the files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from largegen.errors import InputError
from largegen.images.provenance import Provenance
from largegen.slides.bands import read_bands
from largegen.slides.by_products import side_file
from largegen.slides.slide import open_slide


def guide_of(path: Path, record: Mapping[str, Any]) -> Path | None:
    """Find the guide beside an image of zoom's, if it is there; record: what the image says of its making."""
    guide = side_file(Path(path), "guide")
    made_by = Provenance.read(record)
    return guide if made_by.zoom is not None and made_by.level is None and guide.exists() else None


def guide_psnr_of_file(image: Path, guide: Path) -> float:
    """Compute the PSNR in dB between a guide and an image of any size shrunk to it, as `zoom.guide_psnr` has it.

    Raises:
        InputError: The image is not a whole number of times as large as its guide.
    """
    from largegen.sampling.zoom.downsample import guide_downsampler, guide_psnr

    with open_slide(guide) as small, open_slide(image) as large:
        factor = large.width // small.width
        if (large.width, large.height) != (factor * small.width, factor * small.height):
            raise InputError(
                f"{guide}: {small.width}x{small.height} px, no guide of {image}, {large.width}x{large.height} px"
            )
        seen = guide_downsampler(factor)
        for band in read_bands(large):
            seen.add(band)
        return guide_psnr(small.read(0, 0, small.width, small.height), seen.image)
