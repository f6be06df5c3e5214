import pickle

import numpy as np
import pytest
from helpers.slides import GLASS, save_slide, tissue_like

from largegen.errors import SlideError
from largegen.slides.pyramid import level_downsample
from largegen.slides.slide import open_slide


def gradient(width: int, height: int, step: int = 1) -> np.ndarray:
    """Value 40 + 0.15 x in red, 30 + 0.2 y in green at (x, y): the centres of cells of `step` px."""
    y, x = (np.mgrid[0 : height // step, 0 : width // step] + 0.5) * step
    return np.stack([40 + 0.15 * x, 30 + 0.2 * y, np.full_like(x, 80)], -1).round().astype(np.uint8)


def largest_difference(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def test_a_pyramid_tells_its_size_levels_and_resolution(slide_path):
    with open_slide(slide_path) as slide:
        assert (slide.kind, slide.name, slide.reader) == ("slide", "slide", "vips")
        assert (slide.width, slide.height) == (1300, 1000)
        assert slide.levels[:2] == [(1300, 1000), (650, 500)]
        assert slide.mpp == pytest.approx(0.5)
        assert slide.magnification is None and slide.gsd_m is None and slide.georeference is None
        assert all(abs(value - GLASS) <= 2 for value in slide.background)  # no name for it in the metadata


def test_level_0_is_read_as_stored(tmp_path):
    pixels = tissue_like(500, 400)
    slide = open_slide(save_slide(tmp_path / "a.tif", pixels, compression="deflate"))
    assert np.array_equal(slide.read(37, 51, 300, 200), pixels[51:251, 37:337])


@pytest.mark.parametrize(
    "full, level, downsample",
    [
        ((1203, 1001), (601, 500), (2, 2)),
        ((100351, 80000), (391, 312), (256, 256)),  # halved and cut: 100351 / 391 rounds to 257
        ((100097, 80001), (392, 313), (256, 256)),  # halved and rounded up: 100097 / 392 rounds to 255
        ((900, 600), (300, 200), (3, 3)),
        ((900, 600), (600, 400), (1.5, 1.5)),
    ],
)
def test_a_level_s_scale_is_whole_where_rounding_allows(full, level, downsample):
    assert level_downsample(full, level) == downsample


@pytest.mark.parametrize("downsample", [0.5, 1.0, 1.37, 2.0, 3.3, 4.0])
def test_a_gradient_is_reproduced_without_a_shift(tmp_path, downsample):
    tifffile = pytest.importorskip("tifffile")
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for step in (1, 2, 4):  # of odd sizes: 1203 / 601 is not 2
            writer.write(gradient(1203, 1001, step), tile=(256, 256), photometric="rgb", metadata=None)
    slide = open_slide(tmp_path / "a.tif")
    assert slide.levels == [(1203, 1001), (601, 500), (300, 250)]
    size = 200
    x, y = round(1180 - size * downsample), round(980 - size * downsample)
    got = slide.read(x, y, size, size, downsample)
    centres = (np.arange(size) + 0.5) * downsample
    for error in (
        got[..., 0] - (40 + 0.15 * (x + centres)),
        got[..., 1] - (30 + 0.2 * (y + centres))[:, None],
    ):
        assert np.abs(error).max() < 1.01
        assert abs(error.mean()) < 0.06  # 0.3 to 0.4 level-0 pixels


@pytest.mark.parametrize("downsample", [1.0, 1.37, 2.0, 3.3])
def test_two_halves_equal_the_whole(slide_path, downsample):
    slide = open_slide(slide_path)
    whole = slide.read(200, 100, 240, 200, downsample)
    left = slide.read(200, 100, 120, 200, downsample)
    right = slide.read(200 + 120 * downsample, 100, 120, 200, downsample)
    assert largest_difference(whole, np.hstack([left, right])) <= 1


def test_a_large_read_in_parts_equals_one_read(slide_path, monkeypatch):
    slide = open_slide(slide_path)
    whole = slide.read(-30, -20, 700, 560, 1.9)
    monkeypatch.setattr("largegen.slides.pixels.MAX_READ_PX", 20_000)
    assert largest_difference(whole, slide.read(-30, -20, 700, 560, 1.9)) <= 1


def test_details_finer_than_the_output_average_out(tmp_path):
    y, x = np.mgrid[0:400, 0:400]
    checks = np.repeat(((x + y) % 2 * 200)[..., None], 3, 2).astype(np.uint8)
    slide = open_slide(save_slide(tmp_path / "a.tif", checks, compression="deflate", pyramid=False))
    assert np.abs(slide.read(10, 10, 100, 100, 3.0).astype(int) - 100).max() < 12


def test_the_nearest_larger_level_is_read(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for side, value in ((1024, 50), (512, 55), (256, 60)):
            level = np.full((side, side, 3), value, np.uint8)
            writer.write(level, tile=(256, 256), photometric="rgb", metadata=None)
        writer.write(np.zeros((100, 300, 3), np.uint8), photometric="rgb", metadata=None)  # a label
    slide = open_slide(tmp_path / "a.tif")
    assert slide.levels == [(1024, 1024), (512, 512), (256, 256)]
    seen = [int(slide.read(0, 0, 64, 64, d)[32, 32, 0]) for d in (0.5, 1, 1.9, 2, 3.9, 4, 8)]
    assert seen == [50, 50, 50, 55, 55, 60, 60]


def test_outside_is_background_and_the_edge_does_not_darken(slide_path):
    region = open_slide(slide_path).read(-64, -64, 128, 128, 2.0)
    glass = open_slide(slide_path).background
    assert (region[:32] == glass).all() and (region[:, :32] == glass).all()
    assert np.abs(region[32:, 32:].astype(int) - GLASS).max() < 10
    assert (open_slide(slide_path).read(5000, 5000, 8, 8) == glass).all()


@pytest.mark.parametrize(("glass_rows", "expected"), [(30, (240, 238, 241)), (1, (255, 255, 255))])
def test_the_background_is_measured_where_there_is_enough_glass(tmp_path, glass_rows, expected):
    pixels = np.full((200, 100, 3), (200, 120, 160), np.uint8)  # tissue
    pixels[150:] = 190  # grey, but too dark for glass
    pixels[:glass_rows] = (240, 238, 241)
    assert open_slide(save_slide(tmp_path / "a.png", pixels)).background == expected


def test_a_background_that_the_metadata_name_is_taken(make_slide, monkeypatch):
    from largegen.slides.readers import open_reader

    def named(path, check):
        reader = open_reader(path, check)
        reader.properties = reader.properties | {"openslide.background-color": "0A0b0C"}
        return reader

    monkeypatch.setattr("largegen.slides.slide.open_reader", named)
    assert open_slide(make_slide(600, 600)).background == (10, 11, 12)


def test_a_thumbnail_keeps_the_shape_and_is_never_enlarged(slide_path):
    slide = open_slide(slide_path)
    assert slide.thumbnail(260).shape == (200, 260, 3)
    assert slide.thumbnail(5000).shape == (1000, 1300, 3)
    assert slide.nodata_mask(260).shape == (200, 260) and not slide.nodata_mask(260).any()


def test_grey_alpha_and_16_bit_images_become_rgb(tmp_path):
    grey = gradient(300, 200)[..., :1]
    assert np.array_equal(open_slide(save_slide(tmp_path / "g.png", grey)).read(0, 0, 300, 200)[..., 2], grey[..., 0])
    clear = np.dstack([gradient(300, 200), np.zeros((200, 300), np.uint8)])
    assert (open_slide(save_slide(tmp_path / "c.png", clear)).read(0, 0, 300, 200) == 255).all()
    deep = gradient(300, 200).astype(np.uint16) * 257
    path = save_slide(tmp_path / "d.tif", deep, compression="deflate", pyramid=False)
    assert np.array_equal(open_slide(path).read(0, 0, 300, 200), gradient(300, 200))


def test_a_slide_without_resolution_says_what_is_missing(make_slide):
    path = make_slide(300, 300, mpp=None, name="bare.svs")
    with pytest.raises(SlideError, match=r"openslide\.mpp-x.*aperio\.MPP.*source_mpp.*source_mag"):
        open_slide(path).downsample_for(mag=20)
    assert open_slide(path).downsample_for() == 1
    assert open_slide(path, source_mpp=0.25).downsample_for(mag=20) == 2
    told = open_slide(path, source_mag=10)
    assert (told.magnification, told.mpp, told.downsample_for(mag=20)) == (10, 1.0, 0.5)


def test_asking_for_much_finer_than_the_slide_is_warned_of(slide_path, caplog):
    assert open_slide(slide_path).downsample_for(mpp=0.1) == pytest.approx(0.2)
    assert "5.0x finer" in caplog.text


def test_a_pickled_slide_opens_itself_again(make_slide):
    slide = open_slide(make_slide(300, 300, mpp=None, name="bare.svs"), source_mag=20)
    copy = pickle.loads(pickle.dumps(slide))
    assert copy.mpp == 0.5 and np.array_equal(copy.read(0, 0, 64, 64), slide.read(0, 0, 64, 64))


def test_the_real_slides(shared):
    jpeg = open_slide(shared / "data" / "CMU-1-Small-Region.svs")
    assert (jpeg.reader, jpeg.mpp, jpeg.magnification, jpeg.levels) == ("vips", 0.499, 20.0, [(2220, 2967)])
    assert jpeg.background == (246, 243, 243)
    jpeg2000 = open_slide(shared / "data" / "TCGA-CR-7395-01A-01-TS1.svs")
    assert (jpeg2000.reader, jpeg2000.mpp, jpeg2000.levels) == (
        "openslide",
        None,
        [(4443, 3567), (2221, 1783)],
    )
    whole = jpeg2000.read(2001, 1501, 200, 200, 2.0)
    halves = [jpeg2000.read(2001 + 200 * i, 1501, 100, 200, 2.0) for i in (0, 1)]
    assert np.abs(whole.astype(int) - np.hstack(halves)).mean() < 1
    shifts = [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)]  # the pyramid's level lies where level 0 does
    fine = [jpeg2000.read(2001 + dx, 1501 + dy, 400, 400) for dx, dy in shifts]
    errors = [np.abs(whole - f.reshape(200, 2, 200, 2, 3).mean((1, 3))).mean() for f in fine]
    assert errors[0] == min(errors) < 8
