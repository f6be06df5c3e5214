"""What the tags of a TIFF say, read with tifffile: pages, levels, channels, bits, compression, place on Earth."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from largegen.slides.ome import COLOURS, Ome, read_ome

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

LOSSY_COMPRESSIONS = (6, 7, 33003, 33004, 33005, 34712, 50001)  # JPEG old and new, JPEG 2000 (also Aperio's), WebP
USUAL_COMPRESSIONS = (1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946)  # that libvips reads in every build
MAX_PAGES = 64  # looked at for levels; a stack of images has more, and none of its pages is a level
STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # classic TIFF and BigTIFF, in both byte orders
MINISWHITE, PALETTE, SEPARATED = 0, 3, 5  # photometric interpretations
SAMPLES = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3}  # colours of a photometric interpretation that can be read
PLACE_TAGS = {33550, 33922, 34264, 34735}  # GeoTIFF's: scale, tie points or control points, transform, keys
WORLD_SUFFIXES = (".tfw", ".tifw", ".tiffw", ".wld")
REDUCED, MASK = 1, 4  # bits of NewSubfileType


@dataclass(frozen=True)
class TiffLevel:
    """A level of the pyramid: a page, or one page for each of red, green and blue."""

    options: dict[str, int]  # libvips' options that open it
    size: tuple[int, int]  # (width, height) in px
    ifds: tuple[int, ...] = ()  # where the pages' tags lie in the file
    block: tuple[int, int] = (1, 1)  # (width, height) of its tiles or strips
    missing: np.ndarray | None = None  # (rows, columns) bool: tiles or strips of no bytes; None where all are there
    certain: bool = True  # whether the file itself says that it shows what the first page does


@dataclass(frozen=True)
class Channels:
    """Which samples of a pixel are colours."""

    colour: tuple[int, ...] = (0, 1, 2)  # one or three of them, from 0
    alpha: int | None = None  # the sample that is opacity, by ExtraSamples
    premultiplied: bool = False  # whether the colours are multiplied by it
    refused: str = ""  # why they cannot be shown as grey or as red, green and blue
    left_out: int = 0  # further samples


@dataclass(frozen=True)
class TiffHeader:
    """What a TIFF says of its first page, and which pages show the same, smaller."""

    description: str = ""  # ImageDescription: a maker's text, OME-XML or provenance
    lossy: bool = False  # JPEG or the like stored the pixels
    rare: bool = False  # stored in a way that not every libvips reads
    georeferenced: bool = False  # a scene: something says where it lies
    levels: tuple[TiffLevel, ...] = (TiffLevel({}, (0, 0)),)  # the largest first
    channels: Channels = Channels()
    photometric: int = 2
    white: int | None = None  # the largest value that a sample can have, where the file says so
    unusual: bool = False  # laid out as libvips does not read it
    ome: Ome | None = None
    mpp: tuple[float, float] | None = None  # um per px (x, y) by ImageJ's unit or the resolution tags
    notes: tuple[str, ...] = ()  # what of it is not read


def read_tiff_header(path: Path) -> TiffHeader | None:
    """Read the tags of a TIFF; None for a file that does not begin as one, or whose tags cannot be read."""
    with path.open("rb") as file:
        if file.read(4) not in STARTS:
            return None
    import tifffile

    logging.getLogger("tifffile").addHandler(_SILENT)  # its remarks on odd tags; what matters is an exception
    try:
        with tifffile.TiffFile(path) as tiff:
            return _header(tiff, path)
    except Exception:  # of a damaged file, in as many kinds as there are ways to be damaged; the reader says which
        return None


_SILENT = logging.NullHandler()


def _header(tiff: "TiffFile", path: Path) -> TiffHeader:
    index, note = _main_page(tiff)
    page: Any = tiff.pages[index].aspage()
    description = str(tiff.pages.first.description)
    ome = read_ome(description, page.imagewidth, page.imagelength)
    channels, pages, notes = _channels(tiff, page, ome)
    levels = _find_levels(tiff, index, page) if len(pages[0]) == 1 else _levels_of_channels(pages)
    bits = max(np.atleast_1d(page.bitspersample).tolist())
    odd_bits = bits not in (8, 16) and (page.samplesperpixel > 1 or bits > 8)
    separate_tiles = page.is_tiled and page.planarconfig == 2 and page.samplesperpixel > 1
    return TiffHeader(
        description=description,
        lossy=int(page.compression) in LOSSY_COMPRESSIONS,
        rare=int(page.compression) not in USUAL_COMPRESSIONS,
        georeferenced=_is_scene(page, path),
        levels=levels,
        channels=channels,
        photometric=int(page.photometric),
        white=_white(page, ome, bits),
        unusual=len(pages[0]) > 1 or odd_bits or separate_tiles or any(one.missing is not None for one in levels),
        ome=ome,
        mpp=_mpp(tiff, page),
        notes=(*notes, *note),
    )


def _main_page(tiff: "TiffFile") -> tuple[int, tuple[str, ...]]:
    """Find the page that is the slide: the first, or the largest that the first is a thumbnail of; and what to say."""
    first: Any = tiff.pages.first
    pages: list[Any] = [tiff.pages[index].aspage() for index in range(min(len(tiff.pages), MAX_PAGES))]
    areas = [0 if _is_mask(page) else page.imagewidth * page.imagelength for page in pages]
    index = areas.index(max(areas))
    if areas[index] <= first.imagewidth * first.imagelength:
        return 0, ()
    largest = pages[index]
    sizes = [f"{page.imagewidth}x{page.imagelength} px" for page in (first, largest)]
    if _may_be_level(largest, first, tiling=False) and not str(first.description).startswith("Aperio"):
        return index, (f"its first page, of {sizes[0]}, is a thumbnail; page {index + 1}, of {sizes[1]}, is read",)
    return 0, (f"its first page, of {sizes[0]}, is read; page {index + 1}, of {sizes[1]}, shows something else",)


def _is_scene(page: "TiffPage", path: Path) -> bool:
    """Whether tags of GeoTIFF or a world file say where a page lies."""
    return bool(PLACE_TAGS & {tag.code for tag in page.tags}) or any(
        path.with_suffix(suffix).is_file() for suffix in WORLD_SUFFIXES
    )


def _white(page: "TiffPage", ome: Ome | None, bits: int) -> int | None:
    """Find the largest value that samples have by OME's significant bits, MaxSampleValue or BitsPerSample."""
    if ome and ome.bits and 1 < ome.bits <= bits:
        return int(2**ome.bits - 1)
    largest = page.tags.get("MaxSampleValue")
    if largest is not None and bits > 8 and 255 <= max(np.atleast_1d(largest.value)) < 2**bits - 1:
        return int(2 ** math.ceil(math.log2(max(np.atleast_1d(largest.value)) + 1)) - 1)
    return int(2**bits - 1) if bits not in (8, 16) and bits < 16 else None


def _mpp(tiff: "TiffFile", page: "TiffPage") -> tuple[float, float] | None:
    """Find the micrometres per pixel (x, y) by XResolution and YResolution, in ImageJ's unit where it names one."""
    from largegen.slides.ome import micrometres

    unit = {2: 25400.0, 3: 10000.0, 4: 1000.0, 5: 1.0}.get(int(page.resolutionunit or 1))
    if tiff.is_imagej:
        named = str((tiff.imagej_metadata or {}).get("unit", ""))
        if named.startswith("\\u00B5"):
            named = "µ" + named.removeprefix("\\u00B5")
        unit = micrometres(named) or (unit if not named else None)
    sizes = [unit / value if unit and value > 0 else None for value in page.resolution] if unit else [None, None]
    x, y = sizes
    return (x, y) if x and y else None


def _channels(tiff: "TiffFile", page: Any, ome: Ome | None) -> tuple[Channels, list[list[Any]], tuple[str, ...]]:
    """Find what the samples of a pixel are; the pages of each level that hold them; and what is not read."""
    photometric, samples = int(page.photometric), int(page.samplesperpixel)
    name = getattr(page.photometric, "name", str(page.photometric))
    if photometric not in SAMPLES:
        return Channels(refused=f"its colours are {name}, which cannot be read; save it as RGB"), [[page]], ()
    if page.dtype is None or page.dtype.kind not in "ub" or page.dtype.itemsize > 2:
        why = f"{page.dtype} samples; only 8 and 16 bit unsigned pixels can be used"
        return Channels(refused=why), [[page]], ()
    extras = [int(kind) for kind in page.extrasamples]
    own = min(SAMPLES[photometric], samples)
    extras = (extras + [0] * samples)[: samples - own]
    alpha = next((own + i for i, kind in enumerate(extras) if kind in (1, 2)), None)
    premultiplied = alpha is not None and extras[alpha - own] == 1
    unknown = [own + i for i, kind in enumerate(extras) if kind not in (1, 2)]
    if own == 3 or photometric == 5:
        alpha = 3 if alpha is not None and photometric == 5 else alpha  # behind the red, green and blue made of CMYK
        found = Channels((0, 1, 2), alpha, premultiplied, left_out=len(unknown))
        return found, [[page]], _notes(tiff, page, ome, len(unknown))
    if len(unknown) == 2:
        return Channels((0, *unknown), alpha, premultiplied), [[page]], ()
    if unknown:
        return Channels(refused=_no_colours(1 + len(unknown), _names(ome))), [[page]], ()
    if photometric != 1 or samples > 1:
        return Channels((0,), alpha, premultiplied), [[page]], _notes(tiff, page, ome, 0)
    return _channel_per_page(tiff, page, ome)


def _channel_per_page(
    tiff: "TiffFile", page: Any, ome: Ome | None
) -> tuple[Channels, list[list[Any]], tuple[str, ...]]:
    """Find the channels of a grey page: its own, or three pages of red, green and blue."""
    grey = Channels((0,))
    same = _pages_like(tiff, page)
    if ome is None and not tiff.is_imagej:
        if len(same) == 1:
            return grey, [[page]], ()
        why = f"{len(same)} pages of one channel each, and nothing says what they show; save it as RGB"
        return Channels(refused=why), [[page]], ()
    series = tiff.series[0]
    axes, shape = series.get_axes(False), series.get_shape(False)
    count = shape[axes.index("C")] if "C" in axes else 1
    names = _names(ome)
    if count == 1:
        return grey, [[page]], _notes(tiff, page, ome, 0)
    if count != 3 or any(name and name not in COLOURS for name in names):
        return Channels(refused=_no_colours(count, names)), [[page]], ()
    order = [names.index(name) for name in COLOURS] if set(names) == set(COLOURS) else [0, 1, 2]
    sizes = [size for axis, size in zip(axes, shape, strict=True) if axis not in "YXS"]
    where = [axis for axis in axes if axis not in "YXS"].index("C")
    step = math.prod(sizes[where + 1 :])
    pages: list[list[Any]] = [[level.pages[channel * step] for channel in order] for level in series.levels]
    if any(one is None for level in pages for one in level):
        return Channels(refused="its channels lie in other files; save it as one RGB file"), [[page]], ()
    return Channels((0, 1, 2)), [[one.aspage() for one in level] for level in pages], _notes(tiff, page, ome, 0, count)


def _no_colours(count: int, names: Sequence[str]) -> str:
    named = f" ({', '.join(name or '?' for name in names)})" if any(names) else ""
    return (
        f"{count} channels{named}, which are no red, green and blue: fluorescence and the like cannot be read;"
        " save three of them as RGB"
    )


def _names(ome: Ome | None) -> tuple[str, ...]:
    return ome.channels if ome else ()


def _pages_like(tiff: "TiffFile", page: Any) -> list[Any]:
    pages: list[Any] = [tiff.pages[index].aspage() for index in range(min(len(tiff.pages), MAX_PAGES))]
    return [one for one in pages if one.shape == page.shape and one.dtype == page.dtype and not _is_mask(one)]


def _notes(tiff: "TiffFile", page: Any, ome: Ome | None, unknown: int, pages: int = 1) -> tuple[str, ...]:
    """Say what is not read: so many `unknown` bands, and all planes but the first, each of so many `pages`."""
    notes = [f"{unknown} further bands, by the file no opacity, are left out"] if unknown else []
    planes = ome.planes if ome and ome.planes > 1 else len(_pages_like(tiff, page)) // pages
    if planes > 1:
        notes.append(f"{planes} images of this size; the first is read")
    return tuple(notes)


def _is_mask(page: Any) -> bool:
    return bool(int(page.subfiletype) & MASK) or int(page.photometric or 1) == 4


def _level(options: dict[str, int], pages: Sequence[Any], certain: bool = True) -> TiffLevel:
    first = pages[0]
    block = (first.tilewidth, first.tilelength) if first.is_tiled else (first.imagewidth, first.rowsperstrip)
    size = int(first.imagewidth), int(first.imagelength)
    block = int(block[0]), min(int(block[1]), size[1]) or size[1]
    columns, rows = -(-size[0] // block[0]), -(-size[1] // block[1])
    empty = [np.asarray(page.databytecounts) == 0 for page in pages]
    missing = None
    if any(one.any() for one in empty):
        missing = np.asarray(np.concatenate([one.reshape(-1, rows, columns) for one in empty]).any(axis=0))
    return TiffLevel(options, size, tuple(int(page.offset) for page in pages), block, missing, certain)


def _levels_of_channels(pages: list[list[Any]]) -> tuple[TiffLevel, ...]:
    return tuple(_level({}, level) for level in pages)


def _find_levels(tiff: "TiffFile", main: int, first: Any) -> tuple[TiffLevel, ...]:
    """Find the pages or SubIFDs that may be smaller versions of the main page: same shape, samples and tiling."""
    if first.pages:
        candidates = [({"subifd": index}, page.aspage()) for index, page in enumerate(first.pages)]
    else:
        others = range(min(len(tiff.pages), MAX_PAGES))
        candidates = [({"page": index}, tiff.pages[index].aspage()) for index in others if index != main]
    levels = [
        _level(options, [page], _is_certain(first, page, options))
        for options, page in candidates
        if _may_be_level(first, page)
    ]
    return (_level({"page": main} if main else {}, [first]), *sorted(levels, key=lambda level: -level.size[0]))


def _may_be_level(first: Any, page: Any, tiling: bool = True) -> bool:
    """Whether a page may be a smaller version of the first; with `tiling` only if both lie in tiles or in strips."""
    ratio = first.imagewidth / page.imagewidth
    return (
        page.imagewidth < first.imagewidth
        and page.imagelength < first.imagelength
        and abs(first.imagelength / ratio - page.imagelength) <= 2
        and page.samplesperpixel == first.samplesperpixel
        and page.dtype == first.dtype
        and page.planarconfig == first.planarconfig
        # An Aperio thumbnail has the slide's shape too, but lies in strips.
        and (page.is_tiled == first.is_tiled or not tiling)
        and not _is_mask(page)
    )


def _is_certain(first: Any, page: Any, options: dict[str, int]) -> bool:
    """Whether a page says that it is a level: a reduced SubIFD or page described alike, or Aperio's `->`."""
    reduced, description = bool(int(page.subfiletype) & REDUCED), str(page.description)
    if "subifd" in options:
        return reduced
    if description.startswith("Aperio"):
        return "->" in description
    return reduced and bool(description) and description == str(first.description)
