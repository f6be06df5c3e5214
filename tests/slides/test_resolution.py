"""Resolutions as they are asked for, and what they mean."""

import pytest

from largegen.errors import InputError
from largegen.slides.resolution import PIXELS, Resolution, Scale, check_only_one, mag_of, mpp_of
from largegen.slides.slide import open_slide


def test_20x_is_half_a_micrometre():
    assert (mpp_of(20), mag_of(0.5), mpp_of(mag_of(0.37))) == (0.5, 20, 0.37)


def test_a_resolution_is_a_scale():
    assert Resolution().scale() is None
    assert Resolution(mag=40).scale() == Resolution(mpp=0.25).scale() == Scale("um", 0.25)
    assert Resolution(gsd=0.6).scale() == Scale("m", 0.6)
    assert [str(scale) for scale in (Scale("um", 0.25), Scale("m", 0.6), PIXELS)] == [
        *("0.25 um/px (40x)", "0.6 m/px", "no known resolution")
    ]
    assert [Scale("um", mpp).level_name for mpp in (0.499, 0.25, 0.3)] == ["20x", "40x", "33.3x"]


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_only_a_positive_number_is_one(value):
    with pytest.raises(InputError, match=r"`real_mag` .*: must be a positive number"):
        Resolution(mag=value).check("real_")


def test_only_one_may_be_given():
    with pytest.raises(InputError, match="`mpp`, `gsd`: give only one of them"):
        Resolution(mpp=1, gsd=1).check()
    Resolution(mpp=1, mag=10).check(single=False)
    check_only_one(native=False, mag=20, mpp=None)


def test_slides_are_worked_on_at_20x_and_scenes_as_they_are(make_slide, scene_path):
    with open_slide(make_slide(300, 300, mpp=0.25)) as slide, open_slide(scene_path) as scene:
        assert (Resolution().magnification(slide), Resolution().downsample(slide)) == (20, 2)
        assert (Resolution().magnification(scene), Resolution().downsample(scene)) == (None, 1)
        assert (Resolution(mpp=1).magnification(slide), Resolution(mpp=1).downsample(slide)) == (None, 4)
        assert (slide.scale, scene.scale) == (Scale("um", 0.25), Scale("m", 5.0))
    with open_slide(make_slide(300, 300, mpp=None, name="bare.svs")) as bare:
        assert bare.scale == PIXELS
    with open_slide(make_slide(300, 300, mpp=None, name="bare.svs"), source_gsd=0.1) as photograph:
        assert (Resolution().magnification(photograph), Resolution().downsample(photograph)) == (None, 1)
