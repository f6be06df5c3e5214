"""The seam score: what it counts as a seam, the borders that an image's provenance tells, and reading in bands."""

import numpy as np
import pytest
from helpers.models import flat_grid, save_encoder, save_model
from PIL import Image
from scipy.ndimage import gaussian_filter

from largegen import load_model
from largegen.conditioning.area import ImageArea
from largegen.errors import InputError
from largegen.images.generate_file import generate_file
from largegen.images.zoom_file import zoom_file
from largegen.metrics.per_image.seams import borders_of, seam_of_file, seam_score, tile_borders, window_borders
from largegen.sampling.generate import resolve_defaults
from largegen.sampling.settings import Sampling, Zooming
from largegen.sampling.windows import plan_windows
from largegen.slides import bands
from largegen.slides.image_info import read_provenance
from largegen.slides.slide import open_slide

RNG = np.random.default_rng(0)


def texture(size=512):
    return RNG.integers(60, 160, (size, size, 3), dtype=np.uint8)


def smooth(height=640, width=768):
    """Random waves, tens of px long."""
    waves = gaussian_filter(RNG.normal(size=(height, width, 3)), (8, 8, 0))
    return (128 + 30 * waves / waves.std()).clip(0, 255).astype(np.uint8)


def with_seams(image, tile=256):
    """Each tile darker or brighter."""
    shifts = RNG.integers(-25, 26, [-(-side // tile) for side in image.shape[:2]])
    shifts = shifts.repeat(tile, 0).repeat(tile, 1)[: image.shape[0], : image.shape[1], None]
    return (image + shifts).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return load_model(save_model(folder / "model", save_encoder(folder / "encoder"), levels=3), "cpu", "fp32")


def test_an_image_without_seams_scores_one():
    assert seam_score(texture(), [128, 256, 384], [128, 256, 384]) == pytest.approx(1, abs=0.05)
    assert seam_score(smooth(), *tile_borders(768, 640, 64)) == pytest.approx(1, abs=0.1)


def test_tiles_of_another_brightness_score_above_one():
    image = smooth()
    borders = tile_borders(768, 640)
    assert seam_score(with_seams(image), *borders) > 2 * seam_score(image, *borders)


def test_only_a_seam_at_the_borders_counts():
    image = texture(256).astype(int)
    image[:, 128:] += 60
    image = image.clip(0, 255).astype(np.uint8)
    assert seam_score(image, [], [128]) > 1.5
    assert seam_score(image, [], [64]) < 1.1  # the seam is elsewhere


def test_the_autoencoders_own_grid_is_no_seam():
    blocks = RNG.integers(60, 160, (32, 32, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    assert seam_score(blocks, [128], [128], phase=8) == pytest.approx(1, abs=0.3)
    assert seam_score(blocks, [128], [128]) > 4


def test_the_score_is_the_ratio_of_mean_steps():
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, 4:] = 30  # at column 4 a step of 30
    image[2:] += 6  # at row 2 one of 6
    # Nine lines are no border, of which one has a step; or eight, of which none has.
    assert seam_score(image, [], [4]) == pytest.approx(30 / (6 / 9))
    assert seam_score(image, [2], []) == pytest.approx(6 / (30 / 9))


@pytest.mark.parametrize("phase", [1, 8])
@pytest.mark.parametrize("rows", [1, 7, 100])
def test_in_bands_it_is_the_same(tmp_path, monkeypatch, phase, rows):
    image = with_seams(smooth())
    Image.fromarray(image).save(tmp_path / "a.png")
    borders = tile_borders(768, 640)._replace(phase=phase)
    monkeypatch.setattr(bands, "BAND_PX", rows * 768)
    with open_slide(tmp_path / "a.png") as slide:
        assert seam_of_file(slide, *borders) == pytest.approx(seam_score(image, *borders), rel=1e-6)
        part = seam_of_file(slide, [256], [256], phase, xy=(100, 50), size=(500, 400))
    assert part == pytest.approx(seam_score(image[50:450, 100:600], [256], [256], phase), rel=1e-6)


def test_a_real_image_is_measured_at_the_resolution_of_the_generated_one(tmp_path):
    image = with_seams(smooth())
    Image.fromarray(image.repeat(2, 0).repeat(2, 1)).save(tmp_path / "a.png")
    borders = tile_borders(768, 640)
    with open_slide(tmp_path / "a.png") as slide:
        found = seam_of_file(slide, *borders, downsample=2.0)
    assert found == pytest.approx(seam_score(image, *borders), rel=0.2)  # the filter softens seams a little


@pytest.mark.parametrize(("rows", "cols", "phase"), [([], [], 1), ([100], [], 8), (range(64), range(64), 1)])
def test_there_must_be_borders_inside_and_lines_to_compare_with(rows, cols, phase):
    with pytest.raises(InputError, match="no seam score: of"):
        seam_score(texture(64), rows, cols, phase)


def test_a_flat_image_has_no_score():
    with pytest.raises(InputError, match="flat"):
        seam_score(np.full((64, 64, 3), 7, np.uint8), [32], [32])


def test_tiles_side_by_side():
    assert tile_borders(1024, 600) == ((256, 512), (256, 512, 768), 8)
    assert tile_borders(200, 200, tile_px=100).phase == 4  # the borders lie at multiples of it
    assert tile_borders(256, 256) == ((), (), 8)


def test_overlapping_windows_begin_and_end_at_multiples_of_the_stride():
    overlap = Sampling(steps=2, windows="overlap", stride=2)
    found = window_borders(128, 64, 32, 8, overlap)
    assert found == ((16, 32, 48), (16, 32, 48, 64, 80, 96, 112), 8)
    assert window_borders(128, 64, 32, 8, Sampling(steps=2, windows="overlap", stride=3)).cols == (
        24,
        32,
        48,
        56,
        72,
        80,
        96,
        104,
    )


@pytest.mark.parametrize("changes", [{}, {"seed": 5}, {"windows": "overlap"}, {"windows": "overlap", "stride": 3}])
def test_the_provenance_tells_the_borders_of_the_last_steps_windows(model, tmp_path, changes):
    sampling = Sampling(steps=2, **changes)
    generate_file(
        model, flat_grid(model, 3, 4), ImageArea(256, 192, 0, 0, 3, 4, full=False), tmp_path / "a.png", sampling
    )
    found = borders_of(read_provenance(tmp_path / "a.png"))
    s = resolve_defaults(sampling, model)
    plan, _ = plan_windows(s.windows, 24, 32, 8, s.stride, s.seed, s.steps, None)
    edges = [(top + end, left + end) for top, left in plan[-1] for end in (0, 8)]
    rows, cols = ({8 * edge[axis] for edge in edges} for axis in (0, 1))
    assert set(found.rows) == {v for v in rows if 0 < v < 192}
    assert set(found.cols) == {v for v in cols if 0 < v < 256} and len(found.cols) >= 6 and found.phase == 8


def test_the_borders_of_zooms_two_methods(model, tmp_path):
    def borders(name, zooming):
        region = ImageArea(128, 128, 0, 0, 2, 2, full=False)
        zoom_file(model, flat_grid(model, 2, 2), region, tmp_path / name, Sampling(steps=2, seed=3), zooming)
        return borders_of(read_provenance(tmp_path / name))

    shifted = Sampling(steps=2, seed=3, windows="shift")
    assert borders("fast.png", Zooming()) == window_borders(128, 128, 64, 8, shifted)
    assert borders("published.png", Zooming("published", inner_steps=0, seam_steps=0)) == ((64,), (64,), 8)
    with pytest.raises(InputError, match="a patch, or an image shrunk"):
        borders_of(read_provenance(tmp_path / "fast_guide.png"))


def test_a_record_from_before_the_windows_were_recorded():
    with pytest.raises(InputError, match="too old"):
        borders_of({"generated_by": "largegen 0.1", "width": 512, "height": 512})
