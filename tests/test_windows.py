"""Which windows cover a canvas."""

import numpy as np
import pytest

from largegen.errors import InputError
from largegen.windows import axis_starts, overlap_windows, shift_windows


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
    with pytest.raises(InputError, match="--stride"):
        axis_starts(128, 64, stride)


@pytest.mark.parametrize(("height", "width", "stride"), [(100, 40, 7), (16, 16, 4), (9, 50, 16)])
def test_overlapping_windows_leave_no_gap(height, width, stride):
    places = overlap_windows(height, width, 16, stride)
    assert covered(places, height, width, 16).min() >= 1
    assert places == sorted(set(places))


def test_the_published_stride_needs_3721_windows_for_4096_px():
    assert len(overlap_windows(1024, 1024, 64, 16)) == 3721


@pytest.mark.parametrize(("height", "width"), [(100, 40), (64, 64), (17, 16), (9, 50), (8, 8)])
def test_shifted_windows_leave_no_gap_and_overlap_at_the_border_only(height, width):
    for step in range(50):
        count = covered(shift_windows(height, width, 16, 0, step), height, width, 16)
        assert count.min() >= 1
        inner = count[16:-16, 16:-16]
        assert inner.size == 0 or (inner == 1).all()


def test_shifted_windows_depend_on_seed_and_step_only():
    assert shift_windows(256, 256, 64, 3, 5) == shift_windows(256, 256, 64, 3, 5)
    assert shift_windows(256, 256, 64, 3, 5) != shift_windows(256, 256, 64, 3, 6)
    assert shift_windows(256, 256, 64, 3, 5) != shift_windows(256, 256, 64, 4, 5)


def test_the_shift_takes_every_value():
    tops = {shift_windows(64, 64, 16, 0, step)[-1] for step in range(2000)}
    firsts = {shift_windows(64, 64, 16, 0, step)[1] for step in range(400)}
    assert tops == {(48, 48)}
    assert {left for _, left in firsts} == set(range(1, 17))


def test_a_canvas_of_one_window_is_not_shifted():
    assert shift_windows(64, 64, 64, 0, 0) == [(0, 0)]
    assert shift_windows(32, 48, 64, 0, 7) == [(0, 0)]
