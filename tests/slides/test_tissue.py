"""How much of an area is tissue, and whether that is enough."""

import numpy as np
import pytest
from helpers.slides import save_slide, tissue_like

from largegen.slides.slide import open_slide
from largegen.slides.tissue import (
    EMBEDDED_TILE,
    EVALUATED_CROP,
    box_fractions,
    box_sums,
    nearest_cells,
    sliding_sums,
    tissue_mask,
)


@pytest.fixture(scope="module")
def mask():
    return np.random.default_rng(0).random((23, 31)) < 0.4


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_boxes_hold_what_lies_in_them(mask, step):
    rng = np.random.default_rng(1)
    top, left = (rng.integers(0, size - 8, 40) for size in mask.shape)
    sides = rng.integers(1, 1 + 8 // step, (2, 40)) * step
    counts = box_sums(mask, top, top + sides[0], left, left + sides[1], step)
    expected = [mask[t : t + h : step, x : x + w : step].sum() for t, x, h, w in zip(top, left, *sides, strict=True)]
    assert counts.tolist() == expected


def test_rows_and_columns_of_boxes_make_a_table(mask):
    top, left = np.array([[0], [4], [19]]), np.array([0, 11])
    fractions = box_fractions(mask, top, top + 4, left, left + 20)
    expected = [[mask[t : t + 4, x : x + 20].mean() for x in left] for t in top[:, 0]]
    assert np.allclose(fractions, expected)
    whole = box_sums(mask, np.array([0]), np.array([23]), np.array([0]), np.array([31]))
    assert whole.tolist() == [mask.sum()]


def test_sliding_rectangles(mask):
    expected = np.lib.stride_tricks.sliding_window_view(mask, (5, 7)).sum((2, 3))
    assert np.array_equal(sliding_sums(mask, 5, 7), expected)


def test_extents_are_rounded_to_a_cell_at_least():
    first, last = nearest_cells(np.array([0.2, 0.6, 8.9, 9.7]), np.array([0.3, 2.4, 12.0, 9.8]), 10)
    assert (first.tolist(), last.tolist()) == ([0, 1, 9, 9], [1, 2, 10, 10])


def test_scenes_need_more_than_slides():
    assert (EMBEDDED_TILE.of("slide"), EMBEDDED_TILE.of("image"), EMBEDDED_TILE.of("scene")) == (0.1, 0.1, 0.5)
    assert (EVALUATED_CROP.of("slide"), EVALUATED_CROP.of("scene")) == (0.5, 1.0)


@pytest.mark.parametrize("tint", [(20, 8, 30), (0, 0, 0), (40, 25, 20), (5, 30, 40)])
@pytest.mark.parametrize("threshold", [None, 0.1])
def test_a_dark_margin_is_no_tissue_whatever_its_tint(tmp_path, tint, threshold):
    pixels = tissue_like(600, 500)
    pixels[:, 500:] = tint
    slide = open_slide(save_slide(tmp_path / "a.png", pixels))
    mask = tissue_mask(slide, threshold)
    assert not mask[:, 500:].any()
    assert mask[200:300, 200:300].all()
