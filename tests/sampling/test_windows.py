"""Which windows cover a canvas."""

import numpy as np
import pytest

from largegen.errors import InputError
from largegen.sampling.windows import (
    axis_starts,
    overlap_windows,
    plan_windows,
    ring,
    shift_windows,
    stretches,
    without_background,
)


def span(place, size, around):
    """Index a window on a ring: (rows, columns)."""
    rows, columns = (
        np.concatenate([np.arange(at, at + count) for _, at, count in stretches(*side)])
        for side in zip(place, size, around, strict=True)
    )
    return rows[:, None], columns


@pytest.mark.parametrize(("start", "length", "around"), [(0, 16, 16), (3, 16, 40), (-5, 16, 40), (30, 16, 40)])
def test_a_side_of_a_window_goes_on_at_the_ring_s_other_end(start, length, around):
    parts = list(stretches(start, length, around))
    found = np.concatenate([np.arange(at, at + count) for _, at, count in parts])
    assert (found == np.arange(start, start + length) % around).all()
    assert [offset for offset, *_ in parts] == np.cumsum([0, *(count for *_, count in parts)])[:-1].tolist()
    assert len(parts) == (1 if 0 <= start <= around - length else 2)


def covered(places, height, width, window):
    count = np.zeros((height, width), int)
    for top, left in places:
        assert 0 <= top <= max(height - window, 0)
        assert 0 <= left <= max(width - window, 0)
        count[top : top + window, left : left + window] += 1
    return count


@pytest.mark.parametrize(
    ("size", "stride", "starts"),
    [
        (128, 32, [0, 32, 64]),
        (128, 64, [0, 64]),
        (130, 64, [0, 64, 66]),  # the last one is clamped to the edge
        (64, 16, [0]),
        (40, 16, [0]),
        (65, 64, [0, 1]),
    ],
)
def test_starts_along_one_axis(size, stride, starts):
    assert axis_starts(size, 64, stride) == starts


@pytest.mark.parametrize("stride", [0, -1, 65])
def test_strides_that_stand_still_or_leave_gaps_are_refused(stride):
    with pytest.raises(InputError, match="`stride`"):
        axis_starts(128, 64, stride)


@pytest.mark.parametrize(("height", "width", "stride"), [(100, 40, 7), (16, 16, 4), (9, 50, 16)])
def test_overlapping_windows_leave_no_gap(height, width, stride):
    places = overlap_windows(height, width, 16, stride)
    assert covered(places, height, width, 16).min() >= 1
    assert places == sorted(set(places))


def test_the_published_stride_needs_3721_windows_for_4096_px():
    assert len(overlap_windows(1024, 1024, 64, 16)) == 3721


@pytest.mark.parametrize(("height", "width"), [(100, 40), (64, 64), (17, 16), (9, 50), (8, 8)])
def test_shifted_windows_cover_the_ring_once(height, width):
    around, size = (ring(height, 16), ring(width, 16)), (min(height, 16), min(width, 16))
    for step in range(50):
        count = np.zeros(around, int)
        for place in shift_windows(height, width, 16, 0, step):
            count[span(place, size, around)] += 1
            assert all(s - a <= start < s for start, s, a in zip(place, (height, width), around, strict=True))
        assert (count == 1).all()


def test_the_last_windows_lie_every_half_window_and_on_the_image_alone():
    plan, around = plan_windows("shift", 40, 16, 16, 0, 3, 5, None)
    assert plan[:4] == [shift_windows(40, 16, 16, 3, step) for step in range(4)]
    assert around == (64, 16) and plan[4] == [(0, 0), (8, 0), (16, 0), (24, 0)]


@pytest.mark.parametrize(("size", "length"), [(8, 8), (16, 16), (17, 32), (18, 48), (32, 48), (33, 48), (40, 64)])
def test_no_window_lies_on_both_edges(size, length):
    assert ring(size, 16) == length
    for step in range(100):
        for _, left in shift_windows(16, size, 16, 0, step):
            columns = span((0, left), (16, min(size, 16)), (16, length))[1]
            inside = columns[columns < size]
            assert size <= 16 or len(inside) == 0 or np.ptp(inside) == len(inside) - 1


def test_every_latent_is_as_often_at_a_windows_edge_as_any_other():
    """A seam has no fixed place: also not near the border."""
    edges = np.zeros(64, int)
    for step in range(3000):
        for _, left in shift_windows(16, 64, 16, 0, step):
            edges[[place for place in (left, left + 15) if 0 <= place < 64]] += 1
    assert edges.min() > 0.8 * edges.mean() and edges.max() < 1.2 * edges.mean()


def test_windows_of_background_are_left_out():
    skip = np.zeros((32, 48), bool)
    skip[:, 20:] = True
    places = [(0, 0), (0, 16), (16, 32), (0, -10), (16, 40)]
    assert without_background(places, 16, (32, 48), None) == places
    assert without_background(places, 16, (32, 48), skip) == [(0, 0), (0, 16), (0, -10), (16, 40)]
    assert without_background([(0, 40), (0, 56)], 16, (32, 64), skip) == [(0, 56)]  # the rest of the ring is background


def test_shifted_windows_depend_on_seed_and_step_only():
    assert shift_windows(256, 256, 64, 3, 5) == shift_windows(256, 256, 64, 3, 5)
    assert shift_windows(256, 256, 64, 3, 5) != shift_windows(256, 256, 64, 3, 6)
    assert shift_windows(256, 256, 64, 3, 5) != shift_windows(256, 256, 64, 4, 5)


def test_the_shift_takes_every_value():
    firsts = {shift_windows(64, 64, 16, 0, step)[0] for step in range(2000)}
    assert {left for _, left in firsts} == set(range(-16, 0))


def test_a_canvas_of_one_window_is_not_shifted():
    assert shift_windows(64, 64, 64, 0, 0) == [(0, 0)]
    assert shift_windows(32, 48, 64, 0, 7) == [(0, 0)]
