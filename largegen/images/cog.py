"""A tiled TIFF laid out as a cloud-optimized GeoTIFF: all tags first, then the tiles, the smallest level's first.

Tiles are copied as they are stored, so that nothing is encoded twice.
"""

import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

import tifffile

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}  # bytes
TILE_OFFSETS, TILE_BYTES = 324, 325
LONG, LONG8 = 4, 16  # types of a tag's numbers


class _Tag(NamedTuple):
    code: int
    kind: int
    length: int
    value: bytes


class _Page(NamedTuple):
    tags: list[_Tag]
    tiles: list[tuple[int, int]]  # where each lies in the source, and its bytes


class _Layout(NamedTuple):
    """The sizes of classic TIFF or BigTIFF."""

    header: bytes  # up to the offset of the first page's tags
    number: str  # of struct: of a page's tags
    offset: str
    kind: int  # type of a tag that holds offsets

    @property
    def inline(self) -> int:
        """Bytes of a value that stands in its tag."""
        return struct.calcsize(self.offset)


def rearrange(source: Path, out: Path) -> None:
    """Write the pages of `source`, a tiled TIFF whose first page has its levels after it, to `out` as a COG."""
    with tifffile.TiffFile(source) as tiff, source.open("rb") as file, out.open("wb") as target:
        order = tiff.byteorder
        layout = _Layout(struct.pack(f"{order}2sH", b"II" if order == "<" else b"MM", 42), "H", f"{order}I", LONG)
        if tiff.is_bigtiff:
            start = struct.pack(f"{order}2sHHH", b"II" if order == "<" else b"MM", 43, 8, 0)
            layout = _Layout(start, "Q", f"{order}Q", LONG8)
        pages = [_read(page.aspage(), file) for page in tiff.pages]
        _write(pages, layout, order, file, target)


def _read(page: tifffile.TiffPage, file: BinaryIO) -> _Page:
    tags = []
    for tag in page.tags:
        file.seek(tag.valueoffset)
        tags.append(_Tag(tag.code, int(tag.dtype), tag.count, file.read(tag.count * SIZES[int(tag.dtype)])))
    return _Page(sorted(tags), list(zip(page.dataoffsets, page.databytecounts, strict=True)))


def _write(pages: list[_Page], layout: _Layout, order: str, file: BinaryIO, target: BinaryIO) -> None:
    begin = len(layout.header) + layout.inline
    starts = [begin]
    for page in pages:  # offsets have the same size whatever they are
        starts.append(starts[-1] + len(_tags(page, [0] * len(page.tiles), starts[-1], 0, layout, order)))
    places: dict[int, list[int]] = {}
    end = starts[-1]
    for index in reversed(range(len(pages))):
        places[index] = []
        for _, size in pages[index].tiles:
            places[index].append(end if size else 0)
            end += size
    target.write(layout.header + struct.pack(layout.offset, begin))
    for index, page in enumerate(pages):
        following = starts[index + 1] if index + 1 < len(pages) else 0
        target.write(_tags(page, places[index], starts[index], following, layout, order))
    for page in reversed(pages):
        for offset, size in page.tiles:
            file.seek(offset)
            target.write(file.read(size))


def _tags(page: _Page, places: list[int], start: int, following: int, layout: _Layout, order: str) -> bytes:
    """Pack a page's tags, which begin at `start`, and the values that do not stand in them."""
    size = 4 + 2 * layout.inline
    number = struct.pack(order + layout.number, len(page.tags))
    rest_at = start + len(number) + size * len(page.tags) + layout.inline
    entries, rest = b"", b""
    for code, kind, length, value in page.tags:
        if code == TILE_OFFSETS:
            kind = layout.kind
            value = struct.pack(f"{order}{len(places)}{layout.offset[-1]}", *places)
        entries += struct.pack(f"{order}HH", code, kind) + struct.pack(layout.offset, length)
        if len(value) <= layout.inline:
            entries += value.ljust(layout.inline, b"\0")
        else:
            entries += struct.pack(layout.offset, rest_at + len(rest))
            rest += value.ljust(len(value) + len(value) % 2, b"\0")
    return number + entries + struct.pack(layout.offset, following) + rest
