import numpy as np
import pytest
from helpers.slides import GLASS, save_slide, tissue_like

from largegen.errors import InputError
from largegen.slides.slide import open_slide
from largegen.slides.tiles import TileGrid, draw_preview, tile_grid, tissue_fraction
from largegen.slides.tissue import otsu, tissue_mask


def test_the_grid_holds_whole_tiles_only(slide_path):
    grid = tile_grid(open_slide(slide_path), 1.0, tile_px=256)
    assert (grid.rows, grid.cols, grid.tile_level0_px) == (3, 5, 256)
    assert grid.coords.dtype == np.int64 and grid.coords.shape == (15, 2)
    assert grid.coords[:6].tolist() == [[0, 0], [256, 0], [512, 0], [768, 0], [1024, 0], [0, 256]]
    assert tuple(grid.coords[7]) == grid.xy(1, 2)


def test_overlapping_tiles_advance_by_the_rest(slide_path):
    grid = tile_grid(open_slide(slide_path), 2.0, tile_px=128, overlap_px=32)
    assert grid.xy(1, 1) == (192, 192)
    # 650 x 500 px at this resolution: the last tile ends inside, one more would not.
    assert (grid.cols - 1) * 96 + 128 <= 650 < grid.cols * 96 + 128
    assert (grid.rows - 1) * 96 + 128 <= 500 < grid.rows * 96 + 128


def test_a_fractional_downsample_does_not_drift():
    grid = TileGrid(downsample=2.004, rows=1, cols=101)
    assert grid.xy(0, 100)[0] == round(100 * 256 * 2.004)
    assert set(np.diff(grid.coords[:, 0])) == {513, 514}


def test_a_slide_of_exactly_n_tiles_has_n(tmp_path):
    slide = open_slide(save_slide(tmp_path / "a.tif", tissue_like(768, 512), mpp=0.3))
    grid = tile_grid(slide, slide.downsample_for(mpp=0.1))  # 0.1 / 0.3 is not a third exactly
    assert (grid.rows, grid.cols) == (6, 9)


def test_a_slide_smaller_than_a_tile_is_an_error_that_says_its_size(slide_path):
    with pytest.raises(InputError, match=r"162x125 px at this resolution, smaller than one tile of 256 px"):
        tile_grid(open_slide(slide_path), 8.0)
    for tile_px, overlap_px in ((256, 256), (256, -1), (0, 0)):
        with pytest.raises(InputError):
            tile_grid(open_slide(slide_path), 1.0, tile_px, overlap_px)


def test_tissue_is_told_from_glass(slide_path):
    slide = open_slide(slide_path)
    mask = tissue_mask(slide, max_px=650)
    assert mask.shape == (500, 650)
    y, x = np.mgrid[0:500, 0:650]
    radius = np.hypot((x / 650 - 0.5) / 0.42, (y / 500 - 0.5) / 0.40)
    assert mask[radius < 0.97].mean() > 0.99
    assert mask[radius > 1.03].mean() < 0.01


def test_a_slide_of_glass_has_no_tissue(tmp_path):
    noise = np.random.default_rng(0).normal(0, 2, (600, 600, 3))
    slide = open_slide(save_slide(tmp_path / "glass.tif", (GLASS + noise).astype(np.uint8)))
    assert not tissue_mask(slide).any()


def test_a_slide_full_of_tissue_is_kept_whole(tmp_path):
    inside = tissue_like(2400, 2000)[700:1300, 800:1600]
    slide = open_slide(save_slide(tmp_path / "full.tif", np.ascontiguousarray(inside)))
    assert tissue_mask(slide).mean() > 0.99


def test_a_threshold_replaces_otsu(slide_path):
    slide = open_slide(slide_path)
    assert tissue_mask(slide, threshold=0.0).mean() > tissue_mask(slide).mean() > 0
    assert not tissue_mask(slide, threshold=1.0).any()
    with pytest.raises(InputError, match="tissue_threshold"):
        tissue_mask(slide, threshold=7)


def test_in_a_scene_whatever_has_data_counts(scene_path):
    slide = open_slide(scene_path)
    fraction = tissue_fraction(tile_grid(slide, 1.0, tile_px=100), slide, tissue_mask(slide))
    assert fraction.shape == (5, 6)
    assert (fraction[:, 0] == 0).all() and (fraction[:, 1:] == 1).all()


def test_the_fraction_is_the_part_of_the_tile_under_the_mask(slide_path):
    slide = open_slide(slide_path)
    grid = tile_grid(slide, 1.0, tile_px=200)
    mask = np.zeros((500, 650), bool)  # at half of level 0
    mask[:, :150] = True  # level-0 columns 0..300: one tile and a half
    fraction = tissue_fraction(grid, slide, mask)
    assert fraction.shape == (5, 6)
    assert np.allclose(fraction, [[1, 0.5, 0, 0, 0, 0]] * 5)


def test_the_fraction_of_tiles_finer_than_the_mask_is_its_nearest_cell(slide_path):
    slide = open_slide(slide_path)
    mask = np.indices((10, 13)).sum(0) % 2 == 0  # cells of 100 level-0 pixels
    fraction = tissue_fraction(tile_grid(slide, 1.0, tile_px=25), slide, mask)
    assert fraction.shape == (40, 52) and set(np.unique(fraction)) == {0.0, 1.0}
    assert fraction[1, 1] == mask[0, 0] and fraction[1, 5] == mask[0, 1]


def test_otsu_splits_two_groups_in_the_middle():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0.2, 0.02, 5000), rng.normal(0.7, 0.02, 800)])
    assert 0.3 < otsu(values) < 0.6
    assert 0 <= otsu(np.zeros(100)) <= 1


def test_the_preview_fades_what_is_left_out(slide_path, tmp_path):
    from PIL import Image

    slide = open_slide(slide_path)
    grid = tile_grid(slide, 1.0, tile_px=250)
    keep = np.zeros((grid.rows, grid.cols), bool)
    keep[1, 2] = True
    draw_preview(slide, grid, keep, tmp_path / "preview.png", max_px=650)
    image, plain = Image.open(tmp_path / "preview.png"), slide.thumbnail(650)
    assert image.format == "PNG" and image.size == (650, 500)
    pixels = np.asarray(image)
    kept, left_out = np.s_[130:240, 255:370], np.s_[5:120, 5:120]
    assert np.array_equal(pixels[kept], plain[kept])
    assert pixels[left_out].mean() < plain[left_out].mean() - 20


def test_the_real_slide_keeps_its_tissue_and_drops_its_glass(shared):
    slide = open_slide(shared / "data" / "CMU-1-Small-Region.svs")
    grid = tile_grid(slide, slide.downsample_for(mag=20))
    fraction = tissue_fraction(grid, slide, tissue_mask(slide))
    assert fraction.shape == (11, 8)
    assert fraction[:3, :2].max() < 0.05  # glass
    assert fraction[7:, 4].min() > 0.7  # dermis and epithelium
