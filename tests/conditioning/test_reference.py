"""Where on a reference an image lies."""

from types import SimpleNamespace

import numpy as np
import pytest
from helpers.priors import settings_of

from largegen.conditioning.area import most_tissue, parse_corner, parse_size, pure_background
from largegen.conditioning.reference import Reference
from largegen.conditioning.suitable import check_embeddings
from largegen.embeddings.cohort import check_together
from largegen.errors import EmbeddingFileError, InputError
from largegen.models.info import ModelInfo, TrainingSlide

MODEL = SimpleNamespace(tile_px=256, factor=8)


def reference(rows=5, cols=7, origin_xy=(0, 0), tile_level0_px=512.0, tissue=None, strip=0) -> Reference:
    tissue = np.ones((rows, cols), bool) if tissue is None else tissue
    width, height = tissue.shape[1] * 256 + strip, tissue.shape[0] * 256 + strip
    return Reference(width, height, tissue, origin_xy, tile_level0_px, grid=None)


@pytest.mark.parametrize(
    ("text", "size"), [("1024", (1024, 1024)), ("512x256", (512, 256)), ("512X256", (512, 256)), ("Full", None)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0.5", "-256", "12x", "1x2x3", "whole"])
def test_what_is_no_size(text):
    with pytest.raises(InputError, match="`size`"):
        parse_size(text)


def test_regions():
    assert parse_corner("12, 30") == (12, 30)
    for text in ("12", "-1,3", "1,2,3", "a,b"):
        with pytest.raises(InputError, match="`region`"):
            parse_corner(text)


def test_an_image_takes_the_tiles_that_it_touches():
    region = reference().area(MODEL, (512 + 8, 256), (512, 1024))
    assert (region.row, region.col, region.rows, region.cols, region.full) == (2, 1, 1, 3, False)
    assert region.tiles == (slice(2, 3), slice(1, 4))


def test_full_is_all_tiles():
    region = reference().area(MODEL, None)
    assert (region.width, region.height, region.rows, region.cols, region.full) == (7 * 256, 5 * 256, 5, 7, True)
    with pytest.raises(InputError, match="`region`"):
        reference().area(MODEL, None, (0, 0))


def test_full_and_the_largest_size_hold_the_strip_that_fills_no_tile():
    whole = reference(strip=100)  # 96 of them in multiples of 8
    region = whole.area(MODEL, None)
    assert (region.width, region.height, region.rows, region.cols) == (7 * 256 + 96, 5 * 256 + 96, 5, 7)
    region = whole.area(MODEL, (7 * 256 + 96, 5 * 256 + 88))
    assert (region.width, region.height, region.tiles) == (7 * 256 + 96, 5 * 256 + 88, (slice(0, 5), slice(0, 7)))
    with pytest.raises(InputError, match="the largest size that fits is 1888x1376"):
        whole.area(MODEL, (7 * 256 + 104, 256))


@pytest.mark.parametrize("size", [(0, 0), (255, 256), (260, 256), (256, 300), (128, 128)])
def test_sizes_that_the_model_cannot_make(size):
    with pytest.raises(InputError, match=f"`size` {size[0]}x{size[1]}: .*256 px and multiples of 8"):
        reference().area(MODEL, size)


@pytest.mark.parametrize("size", [(2048, 256), (256, 1288), (10**9, 10**9)])
def test_a_size_that_does_not_fit_names_the_largest(size):
    with pytest.raises(InputError, match="the largest size that fits is 1792x1280"):
        reference().area(MODEL, size)


def test_the_default_place_has_most_tissue_and_is_central():
    tissue = np.zeros((6, 8), bool)
    tissue[3:5, 5:8] = True
    assert most_tissue(tissue, 2, 3) == (3, 5)
    assert most_tissue(np.ones((5, 7), bool), 1, 1) == (2, 3)
    assert most_tissue(np.ones((5, 7), bool), 5, 7) == (0, 0)
    region = reference(tissue=tissue).area(MODEL, (768, 512))
    assert (region.row, region.col) == (3, 5)


def test_the_corner_of_a_tile_means_that_tile_though_it_is_rounded():
    tile = 513.08
    whole = reference(40, 40, (1000, 2000), tile)
    for n in range(39):
        corner = 1000 + round(n * tile), 2000 + round(n * tile)
        region = whole.area(MODEL, (256, 256), corner)
        assert (region.row, region.col) == (n, n)
        inside = whole.area(MODEL, (256, 256), (corner[0] + 250, corner[1] + 260))
        assert (inside.row, inside.col) == (n + 1, n)


@pytest.mark.parametrize("corner", [(99, 200), (100, 199 - 512), (100 + 512 * 6, 200), (10**9, 10**9)])
def test_a_place_outside_names_those_that_fit(corner):
    with pytest.raises(InputError, match="corners from 100,200 to 2660,2248 fit"):
        reference(origin_xy=(100, 200)).area(MODEL, (512, 256), corner)
    assert reference(origin_xy=(100, 200)).area(MODEL, (512, 256), (2660, 2248)).tiles == (slice(4, 5), slice(5, 7))


def test_background_beside_tissue_is_not_pure():
    tissue = np.zeros((4, 5), bool)
    tissue[0, 0] = True
    skip = pure_background(tissue, 2, 8, 10)
    assert skip.shape == (8, 10)
    assert not skip[:4, :4].any() and skip[4:].all() and skip[:, 4:].all()


def test_past_the_last_tiles_background_goes_on():
    tissue = np.zeros((4, 5), bool)
    tissue[3, 4] = True
    skip = pure_background(tissue, 2, 9, 11)
    assert skip.shape == (9, 11)
    assert not skip[4:, 6:].any() and skip[:4].all() and skip[:, :6].all()


def a_file(**changes):
    """What is asked of an embedding file: its path, its tiles and its settings."""
    return SimpleNamespace(path="a.h5", count=1, settings=settings_of(2, 2, 16, "a", **{"tile_px": 256} | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 8}, "8-dimensional embeddings of theirs, but model m needs 16, of ours"),
        ({"tile_px": 512}, "tiles of 512 px with an overlap of 0 px, but model m needs 256 px"),
        ({"overlap_px": 32}, "overlap of 32 px"),
        ({"encoder_fingerprint": "beef"}, r"theirs \(beef\), but model m was trained with ours \(cafe\)"),
    ],
)
def test_embeddings_that_do_not_suit_the_model(changes, message):
    info = ModelInfo("m", encoder="ours", encoder_fingerprint="cafe", embedding_dim=16)
    settings = {"encoder": "theirs", "encoder_fingerprint": "cafe", "mpp": None}
    model = SimpleNamespace(info=info, tile_px=256)
    check_embeddings(model, a_file(**settings))
    with pytest.raises(EmbeddingFileError, match=message):
        check_embeddings(model, a_file(**settings | changes))


@pytest.mark.parametrize(
    ("trained", "tiles", "said"),
    [
        ({"mpp": 0.5}, {"mpp": 0.25, "downsample": 4.0}, "its tiles have 1 um/px, but model m was trained with 0.5"),
        ({"mpp": 0.5}, {"mpp": 0.25, "downsample": 2.0}, None),
        ({"mpp": 0.5}, {"mpp": 0.46, "downsample": 1.0}, None),  # another scanner's 20x
        ({"mpp": 0.5}, {"mpp": None, "downsample": 1.0}, None),
        ({"gsd_m": 10.0}, {"gsd_m": 5.0, "downsample": 1.0}, "its tiles have 5 m/px, but model m was trained with 10"),
    ],
)
def test_embeddings_of_another_magnification_are_warned_of(caplog, trained, tiles, said):
    info = ModelInfo(name="m", encoder="e", embedding_dim=16, trained_on=(TrainingSlide("a", **trained),))
    settings = {"encoder": "e", "encoder_fingerprint": "", "mpp": None} | tiles
    check_embeddings(SimpleNamespace(info=info, tile_px=256), a_file(**settings))
    assert said in caplog.text if said else not caplog.text
    caplog.clear()
    check_together([a_file(**settings | {"downsample": tiles["downsample"] * n}) for n in (2, 1)])
    assert ("taken together all the same" in caplog.text) == bool(tiles.get("mpp") or tiles.get("gsd_m"))
