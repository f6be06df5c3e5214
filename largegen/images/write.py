"""Pixels to an image file: pyramidal TIFF, OME-TIFF, DeepZoom, PNG, JPEG.

Bands arrive top to bottom and go to libvips as they come (stream.py): neither memory nor temporary files grow with the
image. Everything is made under temporary names and renamed when complete. What the file says about itself is in
slides/image_info.py and headers.py.
"""

import logging
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from largegen.errors import InputError, OutputError
from largegen.images.cog import rearrange
from largegen.images.headers import clear_resolution, ome_xml, world_file_path, world_lines
from largegen.images.stream import save_bands
from largegen.runtime.files import atomic, remove
from largegen.runtime.outputs import check_new, check_writable
from largegen.slides.by_products import read_sidecar
from largegen.slides.find import tiles_directory
from largegen.slides.image_info import Georeference, ImageInfo, sidecar

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
TRIAL_PX = 1024  # side of the image whose writing is timed
UNKNOWN_DPI = 72  # what PNG and JPEG files conventionally say when they mean nothing by it


def output_format(path: Path) -> str:
    """Name the format that the suffix of `path` asks for, a value of FORMATS.

    Raises:
        InputError: for an unknown suffix.
    """
    name = Path(path).name.lower()
    for suffix, kind in FORMATS.items():
        if name.endswith(suffix) and name != suffix:
            return kind
    raise InputError(f"{path}: unknown output format; use one of the suffixes {', '.join(sorted(FORMATS))}")


def check_output(path: Path, overwrite: bool = False, size: tuple[int, int] | None = None, place: bool = False) -> None:
    """Find out before the work whether an image, and all that goes beside it, can be written.

    Args:
        path: of the file; its suffix names the format.
        overwrite: whether it, and what others have put where something goes beside it, may exist.
        size: (width, height) in px, where it is known.
        place: whether it has a place on Earth, and so perhaps a world file.

    Raises:
        InputError: for an unknown suffix, a JPEG that is too large, or an input that would be replaced.
        OutputError: where the file exists and `overwrite` is False, or where its directory cannot be written.
    """
    path = Path(path)
    if output_format(path) == "jpeg" and size is not None and max(size) > JPEG_MAX_PX:
        raise InputError(f"{path}: a JPEG holds at most {JPEG_MAX_PX} px a side; use .tif, .png or .dzi")
    check_writable(path, overwrite)
    # What a killed run, or one whose image was deleted, has left beside it is ours to replace.
    ours = read_sidecar(path) is not None
    check_new(sidecar(path), overwrite or ours)
    if place and (world := world_path(path)):
        check_new(world, overwrite or ours)
    if output_format(path) == "deepzoom":
        tiles = tiles_directory(path)
        check_new(tiles, overwrite or ours)
        if tiles.is_dir() and (others := [one.name for one in tiles.iterdir() if not _is_of_deepzoom(one.name)]):
            raise OutputError(f"{tiles}: holds {others[0]}, which is no part of a DeepZoom image; choose another `out`")


def check_lossless(path: Path) -> None:
    """Raise InputError for a format that cannot hold an image as it is."""
    if output_format(path) == "jpeg":
        raise InputError(f"{path}: a JPEG cannot keep pixels as they are; use .png, .tif, .ome.tif or .dzi")


def world_path(path: Path) -> Path | None:
    """Name the world file beside an image of a scene; None for formats that hold the place inside, or nowhere."""
    return None if output_format(path) in ("tiff", "deepzoom") else world_file_path(path)


def companions(path: Path, place: bool) -> list[Path]:
    """Name what belongs to an image beside it: its record, a DeepZoom's tiles, and with a `place` its world file."""
    world = world_path(path) if place else None
    tiles = [tiles_directory(path)] if output_format(path) == "deepzoom" else []
    return [sidecar(path), *tiles, *([world] if world else [])]


def _is_of_deepzoom(name: str) -> bool:
    return name.isdecimal() or name == "vips-properties.xml"


def write_image(
    path: Path, bands: Iterable[tuple[int, np.ndarray]], info: ImageInfo, *, jpeg_quality: int | None = 90
) -> None:
    """Write an image, in the format that the suffix of `path` names, and its provenance to `<path>.json`.

    `.tif` and `.ome.tif` are tiled pyramids with JPEG compression; `.tif` has one page per level and, for a scene, the
    georeference inside. Other formats get it as a world file. An existing file is replaced
    once the new one is complete. The caller holds `runtime.lock(path)` where two runs could meet.

    Args:
        path: of the file.
        bands: (y0, (h, width, 3) uint8) from top to bottom without gaps; h may vary.
        info: what the file says about itself.
        jpeg_quality: 1 to 100, of JPEG and of the tiles of TIFF and DeepZoom; None: without loss.

    Raises:
        InputError: as `check_output` does.
        OutputError: where the disk refuses or is full.
        ValueError: for bands that do not fit together.
        BaseException: what `bands` raises. Nothing is left behind in any of these cases.
    """
    path = Path(path)
    check_output(path, overwrite=True, size=(info.width, info.height))
    if jpeg_quality is None:
        check_lossless(path)
    save = SAVERS[output_format(path)]
    place = info.georeference
    world = world_path(path) if place else None
    with atomic(path) as temporary:
        partial_tiles = tiles_directory(temporary)
        try:
            # Renamed in the order sidecar, world file, tiles, image: the sidecar says that the others are ours.
            with atomic(world) if world else nullcontext() as temporary_world, atomic(sidecar(path)) as record:
                save_bands(bands, info.width, info.height, lambda image: save(image, temporary, info, jpeg_quality))
                record.write_text(info.text() + "\n", encoding="utf-8")
                if place and temporary_world:
                    temporary_world.write_text(world_lines(place), encoding="utf-8")
                elif place and output_format(path) == "tiff":
                    _make_geotiff(temporary, place)
            if partial_tiles.exists():
                path.unlink(missing_ok=True)  # whose being there says that all is done
                remove(tiles_directory(path))
                partial_tiles.replace(tiles_directory(path))
        finally:
            remove(partial_tiles)


def seconds_of_writing(path: Path) -> float:
    """Time the writing of an image of the format of `path` on this machine: seconds per px."""
    pixels = np.random.default_rng(0).normal(170, 25, (TRIAL_PX, TRIAL_PX, 3)).clip(0, 255).astype(np.uint8)
    with TemporaryDirectory() as folder:
        started = time.perf_counter()
        write_image(Path(folder) / path.name, [(0, pixels)], ImageInfo(TRIAL_PX, TRIAL_PX))
        return (time.perf_counter() - started) / TRIAL_PX**2


def _save_tiff(image: "pyvips.Image", path: Path, info: ImageInfo, quality: int | None) -> None:
    # One page per level: OpenSlide and QuPath see them all.
    _save_pyramid(image, path, info, quality, info.text(), subifd=False)


def _save_ome_tiff(image: "pyvips.Image", path: Path, info: ImageInfo, quality: int | None) -> None:
    # One page, whose SubIFDs hold the smaller levels: what OME-TIFF 6 readers expect.
    _save_pyramid(image, path, info, quality, ome_xml(info), subifd=True)


def _save_pyramid(
    image: "pyvips.Image", path: Path, info: ImageInfo, quality: int | None, description: str, subifd: bool
) -> None:
    # libvips takes pixels per millimetre whatever the unit in the file.
    image = _labelled(image, "image-description", description, px_per_mm=1000 / info.mpp if info.mpp else 1.0)
    options = {
        "tile": True,
        "tile_width": TILE_PX,
        "tile_height": TILE_PX,
        "pyramid": True,
        "subifd": subifd,
        **({"compression": "jpeg", "Q": quality} if quality else {"compression": "deflate", "predictor": "horizontal"}),
        "resunit": "cm",
        "bigtiff": info.width * info.height * 3 >= CLASSIC_TIFF_BYTES,
    }
    image.tiffsave(str(path), **options)
    if not info.mpp:
        clear_resolution(path)


def _save_deepzoom(image: "pyvips.Image", path: Path, info: ImageInfo, quality: int | None) -> None:
    # dzsave adds the suffix .dzi itself; tile size and overlap stay DeepZoom's usual 254 + 2 * 1 px.
    image.dzsave(str(path.with_suffix("")), suffix=f".jpg[Q={quality}]" if quality else ".png")
    path.with_suffix(".dzi").replace(path)  # `.DZI` is wanted, too
    (tiles_directory(path) / "vips-properties.xml").unlink(missing_ok=True)  # with the time: equal runs would differ


def _save_png(image: "pyvips.Image", path: Path, info: ImageInfo, quality: int | None) -> None:
    image = _labelled(image, "png-comment-0-Description", info.text(), _px_per_mm(info))
    image.pngsave(str(path))


def _save_jpeg(image: "pyvips.Image", path: Path, info: ImageInfo, quality: int | None) -> None:
    text = info.text()
    if len(text) > EXIF_BYTES:
        log.warning("%s: provenance is too long for a JPEG; only %s has all of it", path, sidecar(path))
        text = replace(info, provenance={}).text()
    # libvips wants the value as it prints it: value, then a parenthesis that it drops.
    exif = f"{text} (text, ASCII, {len(text)} components, {len(text)} bytes)"
    image = _labelled(image, "exif-ifd0-ImageDescription", exif, _px_per_mm(info))
    image.jpegsave(str(path), Q=quality or 100)


def _px_per_mm(info: ImageInfo) -> float:
    return 1000 / info.mpp if info.mpp else UNKNOWN_DPI / 25.4


def _labelled(image: "pyvips.Image", name: str, text: str, px_per_mm: float) -> "pyvips.Image":
    import pyvips

    image = image.copy(xres=px_per_mm, yres=px_per_mm)
    image.set_type(pyvips.GValue.gstr_type, name, text)
    return image


SAVERS: dict[str, Callable[["pyvips.Image", Path, ImageInfo, int | None], None]] = {
    "tiff": _save_tiff,
    "ome-tiff": _save_ome_tiff,
    "deepzoom": _save_deepzoom,
    "png": _save_png,
    "jpeg": _save_jpeg,
}


def _make_geotiff(path: Path, place: Georeference) -> None:
    """Write a place into a TIFF, and lay it out as a cloud-optimized GeoTIFF."""
    import rasterio

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)  # not yet
        with rasterio.open(path, "r+") as scene:
            if place.crs:
                scene.crs = rasterio.crs.CRS.from_user_input(place.crs)
            scene.transform = rasterio.Affine(*place.transform[:6])
    cloud_optimized = path.with_name(f"{path.name}.cog")
    try:
        rearrange(path, cloud_optimized)
        cloud_optimized.replace(path)
    finally:
        cloud_optimized.unlink(missing_ok=True)
