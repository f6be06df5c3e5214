"""Tiles are the picture's pixels, at every level and edge, and the cache holds no more than it may."""

import io

import numpy as np
import pytest
from helpers.images import levels_apart
from helpers.slides import save_slide, tissue_like
from PIL import Image

from largegen.slides.slide import open_slide
from largegen.view.sources import CellSource, SlideSource
from largegen.view.tiles import Cache, Picture


def pixels(tile: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(tile)))


def whole(picture: Picture, level: int) -> np.ndarray:
    cols, rows = picture.grid(level)
    return np.concatenate(
        [np.concatenate([pixels(picture.tile(level, col, row)) for col in range(cols)], 1) for row in range(rows)]
    )


def test_the_levels_are_the_picture_whole_and_in_halves(slide_path):
    with open_slide(slide_path) as slide:
        picture = Picture("0", "slide", "slide", SlideSource(slide), slide.width, slide.height)
        assert (picture.levels, picture.grid(0), picture.size(3)) == (4, (1, 1), (1300, 1000))
        for level, shrink in ((3, 1), (2, 2), (0, 8)):
            found = whole(picture, level)
            assert found.shape == (-(-1000 // shrink), -(-1300 // shrink), 3)
            expected = slide.read(0, 0, found.shape[1], found.shape[0], shrink)
            assert np.abs(found.astype(int) - expected).mean() < 3  # JPEG


def test_only_tiles_that_there_are():
    picture = Picture("0", "a", "slide", None, 600, 300)
    assert picture.has(2, 2, 1)
    assert not any(picture.has(*place) for place in ((2, 3, 0), (2, 0, 2), (3, 0, 0), (-1, 0, 0), (2, -1, 0)))


def test_without_small_levels_coarse_tiles_are_cut_from_one_copy(tmp_path):
    with open_slide(save_slide(tmp_path / "flat.png", tissue_like(1500, 900))) as slide:
        source = SlideSource(slide)
        expected = slide.read(0, 0, 187, 112, 8)
        reads = []
        slide.read = lambda *place: reads.append(place) or type(slide).read(slide, *place)
        found = source.read(0, 0, 187, 112, 8)
        source.read(500, 100, 60, 60, 8)
        assert len(reads) == 1 and levels_apart(found, expected) < 12


def test_cells_have_hard_edges():
    colours = np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8)
    found = CellSource(colours, 10, (5, 0)).read(0, 0, 20, 2)
    assert (found[0, :15] == (255, 0, 0)).all() and (found[0, 15:] == (0, 255, 0)).all()


def test_the_cache_is_bounded_in_bytes():
    cache, made = Cache(100), []

    def get(key):
        return cache.get(key, lambda: made.append(key) or bytes(40))

    for key in "aabac":  # b is the one not used lately
        get(key)
    assert made == ["a", "b", "c"] and cache.bytes == 80
    get("a")
    get("b")
    assert made == ["a", "b", "c", "b"] and cache.bytes <= 100


@pytest.mark.parametrize(("size", "levels"), [((1, 1), 1), ((256, 256), 1), ((257, 1), 2), ((100_000, 80_000), 10)])
def test_the_coarsest_level_is_one_tile(size, levels):
    picture = Picture("0", "a", "slide", None, *size)
    assert (picture.levels, picture.grid(0)) == (levels, (1, 1))
