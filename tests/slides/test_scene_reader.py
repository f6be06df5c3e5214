"""Scenes: place on Earth, bands, and what has no data, by rasterio's rules."""

import subprocess
import sys

import numpy as np
import pytest
import rasterio
import tifffile
from helpers.forked import check_reads

from largegen.errors import SlideError
from largegen.slides.scene_reader import colour_bands
from largegen.slides.slide import open_slide


def save_scene(path, bands, crs="EPSG:32633", **profile):
    """Write bands (n, h, w) as a GeoTIFF of 10 m pixels."""
    count, height, width = bands.shape
    layout = {"driver": "GTiff", "width": width, "height": height, "count": count, "dtype": bands.dtype}
    with rasterio.open(
        path, "w", transform=rasterio.Affine(10, 0, 0, 0, -10, 0), crs=crs, **layout, **profile
    ) as scene:
        scene.write(bands)
    return path


@pytest.fixture(scope="module")
def land():
    """(3, 300, 400) uint8 without a 0."""
    return np.random.default_rng(0).integers(1, 255, (3, 300, 400)).astype(np.uint8)


def test_the_fourth_band_of_a_scene_is_not_alpha(scene_path):
    slide = open_slide(scene_path)
    assert (slide.kind, slide.gsd_m, slide.mpp, slide.background) == ("scene", 5.0, None, (0, 0, 0))
    with rasterio.open(scene_path) as scene:
        stored = scene.read((1, 2, 3)).transpose(1, 2, 0)
        assert slide.georeference.transform == tuple(scene.transform)[:6]
        assert slide.georeference.crs == scene.crs.to_string()
    assert np.array_equal(slide.read(0, 0, 600, 500), stored)


def test_no_data_is_seen_and_stays_black(scene_path):
    slide = open_slide(scene_path)
    mask = slide.nodata_mask(300)
    assert mask.shape == slide.thumbnail(300).shape[:2]
    assert mask[:, :50].all() and not mask[:, 50:].any()
    assert (slide.read(0, 0, 40, 40) == 0).all()


def test_the_georeference_of_points_degrees_and_feet(tmp_path):
    for name, crs in (("utm", 32633), ("degrees", 4326), ("feet", 2263)):
        profile = {
            "driver": "GTiff",
            "width": 64,
            "height": 64,
            "count": 3,
            "dtype": "uint8",
            "crs": f"EPSG:{crs}",
        }
        transform = rasterio.Affine(2, 0, 1000, 0, -2, 2000)
        with rasterio.open(tmp_path / f"{name}.tif", "w", transform=transform, **profile) as scene:
            scene.update_tags(AREA_OR_POINT="Point")
            scene.write(np.full((3, 64, 64), 9, np.uint8))
    utm, degrees, feet = (open_slide(tmp_path / f"{name}.tif") for name in ("utm", "degrees", "feet"))
    assert utm.georeference.transform == (2, 0, 1000, 0, -2, 2000)
    assert (utm.gsd_m, degrees.gsd_m, feet.gsd_m) == (2.0, None, pytest.approx(2 * 1200 / 3937))
    assert [s.georeference.crs for s in (utm, degrees, feet)] == ["EPSG:32633", "EPSG:4326", "EPSG:2263"]
    with pytest.raises(SlideError, match="source_gsd"):
        degrees.downsample_for(gsd_m=4)
    assert open_slide(degrees.path, source_gsd=2).downsample_for(gsd_m=4) == 2


def test_a_16_bit_scene_is_stretched_alike_everywhere(tmp_path):
    bands = np.broadcast_to(np.linspace(200, 1200, 400).astype(np.uint16), (4, 300, 400))
    save_scene(tmp_path / "a.tif", bands)
    slide = open_slide(tmp_path / "a.tif")
    whole = slide.read(0, 0, 400, 300)
    assert whole[0, :8].max() <= 1 and whole[0, -8:].min() >= 254
    assert 126 <= whole[0, 200, 0] <= 129
    assert np.array_equal(slide.read(150, 0, 100, 300), whole[:, 150:250])


def test_a_scene_has_no_magnification(scene_path):
    slide = open_slide(scene_path)
    assert slide.downsample_for() == 1 and slide.downsample_for(gsd_m=10) == 2
    with pytest.raises(SlideError, match="`gsd`"):
        slide.downsample_for(mag=20)


def test_the_real_scenes(shared):
    scene = open_slide(shared / "data" / "m_4709963_se_14_1_20100629.tif")
    assert (scene.kind, scene.gsd_m, scene.georeference.crs) == ("scene", 5.0, "EPSG:26914")
    assert scene.levels == [(934, 723), (467, 362)] and not scene.nodata_mask().any()


def test_another_crs_than_one_of_epsg_keeps_its_words(tmp_path, land):
    own = "+proj=laea +lat_0=51.5 +lon_0=10.25 +datum=WGS84 +units=m"
    slide = open_slide(save_scene(tmp_path / "a.tif", land, crs=own))
    assert slide.gsd_m == 10
    assert rasterio.crs.CRS.from_user_input(slide.georeference.crs) == rasterio.crs.CRS.from_user_input(own)


def test_colours_are_the_bands_that_say_so(tmp_path, land):
    path = save_scene(tmp_path / "a.tif", land[::-1], photometric="minisblack")
    with rasterio.open(path, "r+") as scene:
        scene.colorinterp = [rasterio.enums.ColorInterp[name] for name in ("blue", "green", "red")]
    assert np.array_equal(open_slide(path).read(0, 0, 400, 300), land.transpose(1, 2, 0))
    assert colour_bands(["gray", "undefined", "undefined", "undefined"]) == [1, 2, 3]
    assert colour_bands(["gray", "alpha"]) == [1]
    assert colour_bands(["alpha", "undefined", "undefined", "undefined"]) == [2, 3, 4]


@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_bands_may_lie_one_after_another(tmp_path, land, interleave):
    bands = np.concatenate([land, land[:1]])
    tiles = {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate"}
    slide = open_slide(save_scene(tmp_path / "a.tif", bands, interleave=interleave, **tiles))
    assert np.array_equal(slide.read(30, 20, 300, 200), land[:, 20:220, 30:330].transpose(1, 2, 0))
    assert not slide.lossy and not slide.nodata_mask().any()


@pytest.mark.parametrize("how", ["nodata", "alpha", "mask", "zeros", "palette"])
def test_what_has_no_data_is_black_and_masked(tmp_path, land, how):
    gap = np.zeros((300, 400), bool)
    gap[:, :150] = True
    values, more = land, {}
    if how == "nodata":
        values, more = np.where(gap, 7, np.maximum(land, 8)).astype(np.uint8), {"nodata": 7}
    elif how == "alpha":
        values, more = np.concatenate([land, np.where(gap, 0, 255)[None]]).astype(np.uint8), {"photometric": "rgb"}
    elif how == "zeros":
        values = np.where(gap, 0, land).astype(np.uint8)
    elif how == "palette":
        values, more = np.where(gap, 9, 1)[None].astype(np.uint8), {"nodata": 9, "photometric": "palette"}
    path = tmp_path / "a.tif"
    save_scene(path, values, **more)
    if how == "alpha":
        with rasterio.open(path, "r+") as scene:
            scene.colorinterp = [*scene.colorinterp[:3], rasterio.enums.ColorInterp.alpha]
    elif how == "mask":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as scene:
            scene.write_mask(~gap)
    elif how == "palette":
        path.unlink()
        layout = {"driver": "GTiff", "width": 400, "height": 300, "count": 1, "dtype": "uint8", "crs": "EPSG:32633"}
        place = rasterio.Affine(10, 0, 0, 0, -10, 0)
        with rasterio.open(path, "w", transform=place, **layout, **more) as scene:
            scene.write_colormap(1, {1: (20, 90, 30, 255), 9: (255, 255, 255, 255)})
            scene.write(values)
    slide = open_slide(path)
    assert np.array_equal(slide.nodata_mask(), gap)
    shown = slide.read(0, 0, 400, 300)
    assert (shown[gap] == 0).all() and (shown[~gap].max(axis=-1) > 0).all()
    if how == "palette":
        assert (shown[~gap] == (20, 90, 30)).all()


@pytest.mark.parametrize("compress", ["deflate", "jpeg"])
def test_a_damaged_scene_is_one_line_that_names_it(tmp_path, land, compress, capfd):
    smooth = np.sort(land, axis=2).clip(60)
    tiles = {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": compress}
    path = save_scene(tmp_path / "a.tif", smooth, interleave="pixel", **tiles)
    whole = path.read_bytes()
    slide = open_slide(path)
    assert slide.lossy == (compress == "jpeg")
    with tifffile.TiffFile(path) as tiff:
        start, size = tiff.pages.first.dataoffsets[5], tiff.pages.first.databytecounts[5]
    kept = size // 2 if compress == "jpeg" else 0
    path.write_bytes(whole[: start + kept] + bytes(size - kept) + whole[start + size :])
    for _ in range(2):
        with pytest.raises(SlideError, match="damaged") as error:
            open_slide(path).read(130, 130, 100, 100)
        assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    assert open_slide(path).read(0, 0, 100, 100).min() > 0
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SlideError, match="truncated"):
        open_slide(path)
    with pytest.raises(SlideError, match="complex64 samples"):
        open_slide(save_scene(tmp_path / "b.tif", land.astype(np.complex64)))
    assert capfd.readouterr() == ("", "")


def test_threads_and_forked_workers_read_the_same_of_a_scene(scene_path):
    check_reads(scene_path, (500, 400), (100, 50))


def test_slides_do_without_rasterio(slide_path):
    code = "import sys; from largegen.slides.slide import open_slide; open_slide(sys.argv[1]).read(0, 0, 9, 9)"
    code += "; sys.exit('rasterio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, str(slide_path)]).returncode == 0
