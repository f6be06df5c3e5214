"""Tiles known by their level-0 corners, as TRIDENT and CLAM write them -> the grid that they form."""

from dataclasses import dataclass

import numpy as np

from largegen.errors import InputError

MAX_GRID_ERROR_PX = 0.99  # level-0 px that a corner may lie off the grid: it was rounded
MAX_LOST_FRACTION = 0.1  # of the tiles may share their place with another


@dataclass(frozen=True)
class TileSize:
    """How large tiles are, as far as a file or the user says; `downsample` is level-0 px per tile px."""

    tile_px: int | None
    overlap_px: int | None
    level0_px: float | None  # side in level-0 px
    downsample: float | None  # that the user asked for


@dataclass(frozen=True)
class TileLayout:
    """The grid that tiles form."""

    tile_px: int
    overlap_px: int
    downsample: float  # level-0 px per tile px
    grid_xy: tuple[int, int] | None  # level-0 corner of the grid, None for the slide's own
    cells: np.ndarray  # (N, 2) int64: row and column of each tile
    coords: np.ndarray  # (N, 2) int64: their corners (x, y) in level-0 px, on the grid
    kept: np.ndarray  # (N,) int64: which tiles of the file they are
    moved_px: float  # level-0 px that the one furthest off the grid was moved by; 0 if all lay on it


def find_grid(coords: np.ndarray, size: TileSize, where: str) -> TileLayout:
    """Lay tiles on the one grid that suits them best.

    TRIDENT's tiles lie on a grid from the slide's corner. CLAM lays a grid over each piece of tissue: there the grid of
    most tiles is taken and the others are moved to it, by half a tile at most (by one at the slide's edge); of two in
    one place the nearer is kept.

    Args:
        coords: (N, 2) int64, top-left corners (x, y) in level-0 px.
        size: What is known of the tiles' size.
        where: The file, which errors begin with.

    Returns:
        The grid, and the places of the tiles on it.

    Raises:
        InputError: For tiles whose size nothing tells, and for those that form no grid.
    """
    tile_px, overlap_px, downsample = _tile_size(_spacing(coords), size, where)
    stride, origin, cells = _lay(coords, (tile_px - overlap_px) * downsample)
    moved = np.abs(coords - origin - cells * stride).max(axis=1)
    order = np.argsort(moved, kind="stable")
    _, first = np.unique(cells[order], axis=0, return_index=True)
    kept = np.sort(order[first])
    if len(kept) < (1 - MAX_LOST_FRACTION) * len(coords):
        lost = len(coords) - len(kept)
        raise InputError(
            f"{where}: on a grid of {stride:g} level-0 px, {lost} of its {len(coords)} tiles share their place with"
            " another: they form no grid of that size; say how large they are: `tile_px`, `overlap_px`, `mag`"
        )
    cells, furthest = cells[kept], float(moved[kept].max())
    return TileLayout(
        tile_px,
        overlap_px,
        downsample=stride / (tile_px - overlap_px),
        grid_xy=(int(origin[0]), int(origin[1])) if origin.any() else None,
        cells=cells[:, ::-1],
        coords=coords[kept] if furthest <= MAX_GRID_ERROR_PX else origin + np.rint(cells * stride).astype(np.int64),
        kept=kept,
        moved_px=furthest if furthest > MAX_GRID_ERROR_PX else 0.0,
    )


def _tile_size(spacing: float | None, size: TileSize, where: str) -> tuple[int, int, float]:
    """Find tile side and overlap in tile px, and level-0 px per tile px, from what is known and the tiles' spacing."""
    tile_px, overlap_px = (None if v is None else int(v) for v in (size.tile_px, size.overlap_px))
    downsample = size.downsample
    if size.level0_px:
        tile_px = tile_px or (round(size.level0_px / downsample) if downsample else 256)
        downsample = size.level0_px / tile_px
        if overlap_px is None:
            overlap_px = round(max(0.0, tile_px - (spacing or size.level0_px) / downsample))
    elif spacing:
        overlap_px = overlap_px or 0
        tile_px = tile_px or (round(spacing / downsample) + overlap_px if downsample else 256)
        _check(tile_px, overlap_px, where)
        downsample = spacing / (tile_px - overlap_px)
    elif downsample and tile_px:
        overlap_px = overlap_px or 0
    else:
        raise InputError(
            f"{where}: does not say how large its tiles are, and no two are neighbours; give `tile_px`, `mag`"
        )
    _check(tile_px, overlap_px, where)
    if size.downsample and abs(size.downsample / downsample - 1) > 0.05:
        raise InputError(
            f"{where}: its tiles have {downsample:g} level-0 px per px, not the {size.downsample:g} of `mag`, `mpp` or"
            " `gsd`; embeddings cannot be scaled"
        )
    return tile_px, overlap_px, downsample


def _check(tile_px: int, overlap_px: int, where: str) -> None:
    if tile_px < 1 or not 0 <= overlap_px < tile_px:
        raise InputError(
            f"{where}: tiles of {tile_px} px with an overlap of {overlap_px} px: must be 0 <= overlap < tile"
        )


def _spacing(coords: np.ndarray) -> float | None:
    """Find the commonest distance between neighbours in a row or column, the smallest of equals; None for none."""
    steps = []
    for along, across in ((0, 1), (1, 0)):
        line = coords[np.lexsort((coords[:, along], coords[:, across]))]
        together = line[1:, across] == line[:-1, across]
        steps.append((line[1:, along] - line[:-1, along])[together])
    values, counts = np.unique(np.concatenate(steps), return_counts=True)
    values, counts = values[values > 0], counts[values > 0]
    return float(values[counts.argmax()]) if len(values) else None


def _lay(coords: np.ndarray, spacing: float) -> tuple[float, np.ndarray, np.ndarray]:
    """Find stride, corner (x, y) and cells (N, 2), columns first, of the grid that all tiles, or most, lie on."""
    least = coords.min(axis=0)
    estimate = _fit(coords - least, spacing)
    across = max(1.0, (coords - least).max() / estimate)  # tiles
    for start in (np.zeros(2, np.int64), least):
        stride = _fit(coords - start, estimate)
        origin = np.rint(start % stride).astype(np.int64)
        cells = np.rint((coords - origin) / stride).astype(np.int64)
        bent = abs(stride - estimate) * across > 1  # a few tiles would suit the slide's corner by a stride not theirs
        if not bent and np.abs(coords - origin - cells * stride).max() <= MAX_GRID_ERROR_PX:
            return stride, origin, cells
    origin = np.array([_commonest(np.rint(coords[:, axis] % spacing)) for axis in (0, 1)], np.int64)
    return spacing, origin, np.maximum(np.rint((coords - origin) / spacing), 0).astype(np.int64)


def _fit(places: np.ndarray, stride: float) -> float:
    """Find the stride, near `stride`, of which `places` are rounded multiples.

    It is the best in squares, found over distances that double, so that a small error never grows to a tile.
    """
    places = places.ravel()
    furthest, reach = places.max(), 8 * stride
    while True:
        near = places[places <= reach]
        steps = np.rint(near / stride)
        if steps.any():
            stride = float(near @ steps / (steps @ steps))
        if reach >= furthest:
            return stride
        reach *= 2


def _commonest(values: np.ndarray) -> int:
    found, counts = np.unique(values, return_counts=True)
    return int(found[counts.argmax()])
