"""Pixels to an image file: pyramidal TIFF, OME-TIFF, DeepZoom, PNG, JPEG.

Bands arrive top to bottom and go to an uncompressed temporary file beside the output, from which
libvips builds the final file: memory does not grow with the image. Everything is made under temporary
names and renamed when complete. What the file says about itself is in slides/image_info.py and headers.py.
"""

import contextlib
import logging
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from largegen.errors import InputError, OutputError
from largegen.images.headers import clear_resolution, ome_xml, raw_tiff_header, world_file
from largegen.runtime.files import atomic, remove
from largegen.runtime.outputs import check_new, check_writable
from largegen.slides.deepzoom_reader import tiles_directory
from largegen.slides.image_info import ImageInfo, sidecar

if TYPE_CHECKING:
    import pyvips

log = logging.getLogger(__name__)

FORMATS = {  # longest suffix first
    ".ome.tiff": "ome-tiff",
    ".ome.tif": "ome-tiff",
    ".tiff": "tiff",
    ".tif": "tiff",
    ".dzi": "deepzoom",
    ".png": "png",
    ".jpeg": "jpeg",
    ".jpg": "jpeg",
}
TILE_PX = 256
JPEG_MAX_PX = 65500  # libjpeg's limit for a side
CLASSIC_TIFF_BYTES = 2**31  # from this much raw data on, write BigTIFF (offsets of 64 bits)
EXIF_BYTES = 60_000  # a JPEG's EXIF segment holds 64 kB
UNKNOWN_DPI = 72  # what PNG and JPEG files conventionally say when they mean nothing by it


def output_format(path: Path) -> str:
    """Name the format that the suffix of `path` asks for, a value of FORMATS.

    Raises InputError for an unknown suffix.
    """
    name = Path(path).name.lower()
    for suffix, kind in FORMATS.items():
        if name.endswith(suffix) and name != suffix:
            return kind
    raise InputError(f"{path}: unknown output format; use one of the suffixes {', '.join(sorted(FORMATS))}")


def check_output(path: Path, overwrite: bool = False, size: tuple[int, int] | None = None) -> None:
    """Find out before the work whether an image of `size` (width, height) px can be written to `path`.

    Raises InputError for an unknown suffix or a JPEG that is too large, OutputError where the file exists and
    `overwrite` is False, or where its directory cannot be written.
    """
    path = Path(path)
    if output_format(path) == "jpeg" and size is not None and max(size) > JPEG_MAX_PX:
        raise InputError(f"{path}: a JPEG holds at most {JPEG_MAX_PX} px a side; use .tif, .png or .dzi")
    check_writable(path, overwrite)
    if output_format(path) == "deepzoom":
        check_new(tiles_directory(path), overwrite)


def write_image(
    path: Path, bands: Iterable[tuple[int, np.ndarray]], info: ImageInfo, *, jpeg_quality: int = 90
) -> None:
    """Write an image, in the format that the suffix of `path` names, and its provenance to `<path>.json`.

    `bands` yields (y0, (h, width, 3) uint8) from top to bottom without gaps; h may vary. An existing file is
    replaced once the new one is complete. `.tif` and `.ome.tif` are tiled pyramids with JPEG compression;
    `.tif` has one page per level and, for a scene, the georeference inside if rasterio is installed. Other
    formats get it as a world file. The caller holds `runtime.lock(path)` where two runs could meet.

    Raises InputError as check_output does, OutputError where the disk refuses or is full (the temporary takes
    width * height * 3 bytes), ValueError for bands that do not fit together. Nothing is left behind then.
    """
    path = Path(path)
    check_output(path, overwrite=True, size=(info.width, info.height))
    save = SAVERS[output_format(path)]
    with atomic(path) as temporary, atomic(sidecar(path)) as record:
        partial_tiles = tiles_directory(temporary)
        try:
            with _spooled(path, bands, info) as image:
                save(image, temporary, info, jpeg_quality)
            record.write_text(info.text() + "\n", encoding="utf-8")
            if info.georeference is not None:
                _place(path, temporary, info)
            if partial_tiles.exists():
                remove(tiles_directory(path))
                partial_tiles.replace(tiles_directory(path))
        finally:
            remove(partial_tiles)


@contextlib.contextmanager
def _spooled(path: Path, bands: Iterable[tuple[int, np.ndarray]], info: ImageInfo) -> Iterator["pyvips.Image"]:
    """Append the bands to `.<name>.raw` beside `path`; give it as a lazily read (height, width, 3) image."""
    import pyvips

    needed, free = info.width * info.height * 3, shutil.disk_usage(path.parent).free
    if free < needed:
        raise OutputError(
            f"{path}: no space left on the disk: needs {needed / 1e6:,.0f} MB beside the output, "
            f"{free / 1e6:,.0f} MB are free; free some or choose another --out"
        )
    # No process id in the name: the next run takes the place of what a killed one left.
    raw = path.with_name(f".{path.name}.raw")
    try:
        with raw.open("wb") as file:
            # As a TIFF of strips, which libvips reads in turn: it maps the whole of a headerless file.
            file.write(raw_tiff_header(info.width, info.height))
            y = 0
            for y0, band in bands:
                if y0 != y or band.dtype != np.uint8 or band.shape[1:] != (info.width, 3):
                    raise ValueError(f"band {band.dtype} {band.shape} at row {y0}: expected a uint8 band at row {y}")
                file.write(np.ascontiguousarray(band))
                y += len(band)
        if y != info.height:
            raise ValueError(f"the bands have {y} rows, the image {info.height}")
        yield pyvips.Image.tiffload(str(raw), access="sequential", revalidate=True)
    finally:
        remove(raw)


def _save_tiff(image: "pyvips.Image", path: Path, info: ImageInfo, quality: int) -> None:
    # One page per level: OpenSlide and QuPath see them all.
    _save_pyramid(image, path, info, quality, info.text(), subifd=False)


def _save_ome_tiff(image: "pyvips.Image", path: Path, info: ImageInfo, quality: int) -> None:
    # One page, whose SubIFDs hold the smaller levels: what OME-TIFF 6 readers expect.
    _save_pyramid(image, path, info, quality, ome_xml(info), subifd=True)


def _save_pyramid(
    image: "pyvips.Image", path: Path, info: ImageInfo, quality: int, description: str, subifd: bool
) -> None:
    # libvips takes pixels per millimetre whatever the unit in the file.
    image = _labelled(image, "image-description", description, px_per_mm=1000 / info.mpp if info.mpp else 1.0)
    options = {
        "tile": True,
        "tile_width": TILE_PX,
        "tile_height": TILE_PX,
        "pyramid": True,
        "subifd": subifd,
        "compression": "jpeg",
        "Q": quality,
        "resunit": "cm",
        "bigtiff": info.width * info.height * 3 >= CLASSIC_TIFF_BYTES,
    }
    _run(image, lambda: image.tiffsave(str(path), **options))
    if not info.mpp:
        clear_resolution(path)


def _save_deepzoom(image: "pyvips.Image", path: Path, info: ImageInfo, quality: int) -> None:
    # dzsave adds the suffix .dzi itself; tile size and overlap stay DeepZoom's usual 254 + 2 * 1 px.
    _run(image, lambda: image.dzsave(str(path.with_suffix("")), suffix=f".jpg[Q={quality}]"))


def _save_png(image: "pyvips.Image", path: Path, info: ImageInfo, quality: int) -> None:
    image = _labelled(image, "png-comment-0-Description", info.text(), _px_per_mm(info))
    _run(image, lambda: image.pngsave(str(path)))


def _save_jpeg(image: "pyvips.Image", path: Path, info: ImageInfo, quality: int) -> None:
    text = info.text()
    if len(text) > EXIF_BYTES:
        log.warning("%s: provenance is too long for a JPEG; only %s has all of it", path, sidecar(path))
        text = replace(info, provenance={}).text()
    # libvips wants the value as it prints it: value, then a parenthesis that it drops.
    exif = f"{text} (text, ASCII, {len(text)} components, {len(text)} bytes)"
    image = _labelled(image, "exif-ifd0-ImageDescription", exif, _px_per_mm(info))
    _run(image, lambda: image.jpegsave(str(path), Q=quality))


def _px_per_mm(info: ImageInfo) -> float:
    return 1000 / info.mpp if info.mpp else UNKNOWN_DPI / 25.4


def _labelled(image: "pyvips.Image", name: str, text: str, px_per_mm: float) -> "pyvips.Image":
    import pyvips

    image = image.copy(xres=px_per_mm, yres=px_per_mm)
    image.set_type(pyvips.GValue.gstr_type, name, text)
    return image


def _run(image: "pyvips.Image", save: Callable[[], None]) -> None:
    """Run a libvips save so that Ctrl-C stops it; its failure becomes an OSError with libvips' reason."""
    import pyvips

    with ThreadPoolExecutor(1) as executor:
        job = executor.submit(save)
        try:
            job.result()
        except BaseException as error:
            image.set_kill(True)
            if not isinstance(error, pyvips.Error):
                raise
            reasons = [line.strip() for line in str(error).splitlines()[1:] if line.strip()]
            full = [line for line in reasons if "No space left" in line]
            raise OSError((full or reasons or [str(error)])[0]) from error


SAVERS: dict[str, Callable[["pyvips.Image", Path, ImageInfo, int], None]] = {
    "tiff": _save_tiff,
    "ome-tiff": _save_ome_tiff,
    "deepzoom": _save_deepzoom,
    "png": _save_png,
    "jpeg": _save_jpeg,
}


def _place(path: Path, temporary: Path, info: ImageInfo) -> None:
    """Give a scene's image its place on Earth: GeoTIFF tags, or a world file, or the JSON only."""
    kind = output_format(path)
    if kind == "deepzoom":
        return
    if kind == "tiff":
        try:
            _write_geotiff_tags(temporary, info)
            return
        except ImportError:
            log.warning("%s: has a world file but no CRS; for GeoTIFF, pip install 'largegen[geo]'", path)
    world, lines = world_file(path, info.georeference)
    with atomic(world) as temporary_world:
        temporary_world.write_text(lines, encoding="utf-8")


def _write_geotiff_tags(path: Path, info: ImageInfo) -> None:
    import rasterio

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)  # not yet
        with rasterio.open(path, "r+") as scene:
            scene.crs = rasterio.crs.CRS.from_user_input(info.georeference.crs)
            scene.transform = rasterio.Affine(*info.georeference.transform[:6])
