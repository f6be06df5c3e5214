"""Which crops are drawn, and that they come the same whatever the batch size and the number of threads."""

import threading
import time

import numpy as np
import pytest
from helpers.slides import save_slide, tissue_like

from largegen.errors import InputError, SlideError
from largegen.metrics.request import CropSettings
from largegen.metrics.sets import crops as module
from largegen.metrics.sets.crops import Crops, whole_images
from largegen.metrics.sets.images import SetImage, resolution_groups
from largegen.slides.resolution import Resolution
from largegen.slides.slide import open_slide


def noise(path, width, height=None, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (height or width, width, 3)).astype(np.uint8)
    return save_slide(path, pixels)


def images_of(*paths):
    return resolution_groups(paths, paths[:1])[0].real


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Images of 100x100, 300x200 and 64x64 px."""
    folder = tmp_path_factory.mktemp("mixed")
    sizes = {"a.png": (100, 100), "b.png": (300, 200), "c.png": (64, 64)}
    return images_of(*(noise(folder / name, *size, seed=n) for n, (name, size) in enumerate(sizes.items())))


def everything(samples, *arguments, **options):
    batches = list(samples.batches(*arguments, **options))
    return np.concatenate([indices for indices, _ in batches]), np.concatenate([crops for _, crops in batches])


def test_a_crop_is_the_image_s_pixels_at_its_place(mixed):
    crops = Crops(mixed, CropSettings(30, 64))
    pixels = [open_slide(image.path).read(0, 0, image.width, image.height) for image in mixed]
    assert len(crops) == 30 and crops.places.shape == (30, 3) and crops.places.dtype == np.int64
    for (number, x, y), crop in zip(crops.places, crops.read(range(30)), strict=True):
        assert np.array_equal(crop, pixels[number][y : y + 64, x : x + 64])


def test_crops_do_not_depend_on_batches_threads_or_processes(mixed):
    crops = Crops(mixed, CropSettings(37, 64, seed=3))
    expected = crops.read(range(37))
    for batch_size, workers in ((1, 1), (5, 3), (8, 2), (64, 4)):
        indices, found = everything(Crops(mixed, CropSettings(37, 64, seed=3)), batch_size, workers)
        assert indices.tolist() == list(range(37)) and np.array_equal(found, expected)
    shares = [everything(crops, 5, share=(number, 3)) for number in range(3)]
    assert sorted(np.concatenate([indices for indices, _ in shares]).tolist()) == list(range(37))
    assert all(np.array_equal(found, expected[indices]) for indices, found in shares)


def test_the_seed_says_where(mixed):
    places = [Crops(mixed, CropSettings(50, 64, seed=seed)).places for seed in (0, 0, 1)]
    assert np.array_equal(places[0], places[1]) and not np.array_equal(places[0], places[2])


def test_what_is_prepared_is_stacked(mixed):
    def prepare(crop):
        return crop[::2, ::2].astype(np.float32) / 255

    crops = Crops(mixed, CropSettings(9, 64))
    indices, prepared = everything(crops, 4, prepare=prepare)
    assert np.array_equal(prepared, np.stack([prepare(crop) for crop in crops.read(indices)]))


def test_random_crops_are_uniform_and_as_many_as_an_image_is_large(mixed):
    places = Crops(mixed, CropSettings(20000, 64)).places
    areas = np.array([image.width * image.height for image in mixed])
    assert np.bincount(places[:, 0]) / 20000 == pytest.approx(areas / areas.sum(), abs=0.01)
    x, y = places[places[:, 0] == 1, 1:].T
    assert (x.min(), x.max(), y.min(), y.max()) == (0, 300 - 64, 0, 200 - 64)
    assert (x.mean(), y.mean()) == (pytest.approx(118, abs=3), pytest.approx(68, abs=2))
    assert (np.diff(places[:, 0]) >= 0).all()  # each image is opened once


def test_patches_are_taken_whole_and_once(tmp_path):
    patches = images_of(*(noise(tmp_path / f"{n:02}.png", 64, seed=n) for n in range(12)))
    assert Crops(patches, CropSettings(100, 64)).places.tolist() == [[n, 0, 0] for n in range(12)]
    some = Crops(patches, CropSettings(5, 64, seed=1)).places
    assert len(np.unique(some[:, 0])) == 5 and not some[:, 1:].any()
    assert not np.array_equal(some, Crops(patches, CropSettings(5, 64, seed=2)).places)


def test_a_grid_lies_side_by_side(mixed):
    settings = CropSettings(1000, 64, "grid")
    tiles = [[0, 0, 0], *([1, 64 * col, 64 * row] for row in range(3) for col in range(4)), [2, 0, 0]]
    assert Crops(mixed, settings).places.tolist() == tiles
    some = Crops(mixed, CropSettings(8, 64, "grid")).places.tolist()
    assert len(some) == 8 and all(place in tiles for place in some) and len({tuple(place) for place in some}) == 8


@pytest.mark.parametrize("placement", ["random", "grid"])
@pytest.mark.parametrize("mpp", [0.5, 1.0])
def test_crops_of_a_slide_are_of_tissue(slide_path, placement, mpp):
    (level,) = resolution_groups([slide_path], [slide_path], Resolution(mpp=mpp))
    crops = Crops(level.real, CropSettings(300, 64, placement))
    centre = crops.places[:, 1:] + 32 * mpp / 0.5
    radius = np.hypot((centre[:, 0] / 1300 - 0.5) / 0.42, (centre[:, 1] / 1000 - 0.5) / 0.40)
    assert len(crops) == 300 or (placement == "grid" and len(crops) > 20)
    assert radius.max() < 1.05 and radius.max() > 0.8
    saturated = np.ptp(crops.read(range(len(crops))), axis=-1) > 25
    assert saturated.mean((1, 2)).min() > 0.45


@pytest.mark.parametrize("placement", ["random", "grid"])
def test_crops_of_a_scene_hold_data_only(scene_path, placement):
    places = Crops(images_of(scene_path), CropSettings(200, 50, placement)).places
    assert places[:, 1].min() >= 100 and len(places) >= 90
    assert places[:, 1].max() <= 550 and places[:, 2].max() <= 450


def test_a_set_without_tissue_is_one_line(tmp_path):
    glass = save_slide(tmp_path / "glass.tif", np.full((600, 600, 3), 243, np.uint8))
    with pytest.raises(InputError, match=r"no crop of 256 px .*glass\.tif: they hold too little tissue") as error:
        Crops(images_of(glass), CropSettings(10))
    assert "\n" not in str(error.value)


def test_one_slide_of_glass_among_others_gives_none(tmp_path, slide_path):
    glass = save_slide(tmp_path / "glass.tif", np.full((600, 600, 3), 243, np.uint8), mpp=0.5)
    assert set(Crops(images_of(glass, slide_path), CropSettings(20, 64)).places[:, 0]) == {1}


def test_an_image_smaller_than_a_crop_is_named_or_left_out(mixed):
    with pytest.raises(SlideError, match=r"c\.png: 64x64 px at this resolution, smaller than a crop of 80 px"):
        Crops(mixed, CropSettings(10, 80))
    failed = []
    assert set(Crops(mixed, CropSettings(10, 80), failed).places[:, 0]) <= {0, 1}
    assert [path for path, _ in failed] == [mixed[2].path]


@pytest.mark.parametrize("settings", [CropSettings(0), CropSettings(5, 0), CropSettings(5, 64, "somewhere")])
def test_bad_settings_are_refused(mixed, settings):
    with pytest.raises(InputError, match="crops"):
        Crops(mixed, settings)


def test_a_damaged_image_among_many_is_named_or_left_out(tmp_path):
    paths = [noise(tmp_path / f"{n:02}.png", 128, seed=n) for n in range(20)]
    paths[7].write_bytes(paths[7].read_bytes()[:9000])
    images = images_of(*paths)
    crops = Crops(images, CropSettings(200, 64))
    with pytest.raises(SlideError, match=r"07\.png: .*truncated") as error:
        everything(crops, 8, 3)
    assert "\n" not in str(error.value)
    failed = []
    indices, found = everything(Crops(images, CropSettings(200, 64), failed), 8, 3)
    whole = np.flatnonzero(crops.places[:, 0] != 7)
    assert indices.tolist() == whole.tolist() and len(found) == len(whole) < 200
    assert [path for path, _ in failed] == [paths[7]]


def test_any_other_error_of_a_thread_arrives(mixed):
    def prepare(crop):
        raise MemoryError("as if")

    with pytest.raises(MemoryError, match="as if"):
        everything(Crops(mixed, CropSettings(9, 64), []), 4, prepare=prepare)


def test_threads_read_a_few_batches_ahead_and_end_with_the_loop(mixed):
    read = []
    before = threading.active_count()
    batches = Crops(mixed, CropSettings(400, 64)).batches(4, workers=2, prepare=lambda crop: read.append(1) or crop)
    next(batches)
    time.sleep(0.2)
    assert 4 <= len(read) <= 4 * (1 + 2 + 2)
    batches.close()
    assert threading.active_count() == before


def test_few_images_are_open_at_a_time(tmp_path):
    crops = Crops(images_of(*(noise(tmp_path / f"{n}.png", 64) for n in range(20))), CropSettings(20, 64))
    everything(crops, 2)
    assert len(crops._open) <= module.MAX_OPEN_SLIDES


def test_a_hundred_thousand_places_on_a_huge_slide_take_no_time(monkeypatch, slide_path):
    image = SetImage(slide_path, 1.0, 100_000, 100_000, lossy=True, tissue=True)
    mask = np.random.default_rng(0).random((1024, 1024)) < 0.8
    monkeypatch.setattr("largegen.metrics.sets.crop_area._mask", lambda image: (mask, 0.5))
    for placement in ("random", "grid"):
        started = time.process_time()
        assert len(Crops([image], CropSettings(100_000, 256, placement))) == 100_000
        assert time.process_time() - started < 1


def test_whole_images_come_as_they_are_or_shrunk_to_1024_px(tmp_path):
    small, large = noise(tmp_path / "a.png", 300, 200), save_slide(tmp_path / "b.png", tissue_like(3072, 2048))
    samples = whole_images(images_of(small, large))
    sizes = []

    def prepare(image):
        sizes.append(image.shape)
        return image[:100, :100]

    indices, found = everything(samples, 1, workers=1, prepare=prepare)
    assert indices.tolist() == [0, 1] and sizes == [(200, 300, 3), (1024, 1536, 3)]
    assert np.array_equal(found[0], open_slide(small).read(0, 0, 100, 100))
    assert np.array_equal(found[1], open_slide(large).read(0, 0, 1536, 1024, 2)[:100, :100])
