"""Scenes whose bands are signed or floating point: stretched as those of 16 bits are, to the same picture."""

import logging

import numpy as np
import pytest
import rasterio

from largegen.slides.slide import open_slide

PLACE = {"crs": "EPSG:32614", "transform": rasterio.Affine(1, 0, 500000, 0, -1, 4600000)}


@pytest.fixture(scope="module")
def reflectance() -> np.ndarray:
    """(3, 200, 300) uint16: 500 to 3500, as of sensors."""
    y, x = np.mgrid[0:200, 0:300]
    bands = np.stack([2000 + 1500 * np.sin(x / (20 + 9 * band)) * np.cos(y / 31) for band in range(3)])
    return bands.round().astype(np.uint16)


@pytest.fixture
def save(tmp_path):
    def write(bands, name="a.tif", scales=None, offsets=None, **options):
        count, height, width = bands.shape
        size = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": bands.dtype.name}
        with rasterio.open(tmp_path / name, "w", **size, **PLACE, **options) as file:
            file.write(bands)
            file.scales, file.offsets = scales or file.scales, offsets or file.offsets
        return tmp_path / name

    return write


def picture(path) -> np.ndarray:
    with open_slide(path) as scene:
        assert scene.kind == "scene"
        return scene.read(0, 0, scene.width, scene.height).astype(int)


@pytest.mark.parametrize(
    ("dtype", "factor", "added"),
    [("int16", 1, -3000), ("int32", 1000, 0), ("float32", 1e-4, 0), ("float64", 1, 0), ("uint32", 1000, 7)],
)
def test_any_numbers_give_the_picture_of_16_bits(save, reflectance, dtype, factor, added):
    expected = picture(save(reflectance))
    assert expected.min() == 0 and expected.max() == 255
    found = picture(save((reflectance * float(factor) + added).astype(dtype), "b.tif"))
    assert np.abs(found - expected).max() <= 1


def test_the_bands_own_scales_and_offsets_are_heeded(save, reflectance):
    expected = picture(save(reflectance.astype(np.float32)))
    scales, offsets = (0.5, 1.0, 2.0), (0.0, -10.0, 5.0)
    stored = np.stack([(band - b) / a for band, a, b in zip(reflectance, scales, offsets, strict=True)])
    found = picture(save(stored.astype(np.float32), "b.tif", scales, offsets))
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize(("dtype", "gone"), [("float32", np.nan), ("float32", np.inf), ("int16", -9999)])
def test_what_is_no_number_or_declared_so_is_no_data(save, reflectance, dtype, gone):
    bands = reflectance.astype(dtype)
    bands[:, :, :100] = gone
    path = save(bands, **({"nodata": gone} if dtype == "int16" else {}))
    with open_slide(path) as scene:
        mask = scene.nodata_mask()
    assert mask[:, :100].all() and not mask[:, 100:].any()
    found = picture(path)
    assert (found[:, :99] == found[0, 0]).all()
    rest = picture(save(reflectance[:, :, 100:], "b.tif"))
    assert np.abs(found[:, 100:] - rest).max() <= 2


@pytest.mark.parametrize(("dtype", "lowest"), [("int16", -32768), ("float32", -3.4028235e38), ("float32", -3.4e38)])
def test_the_lowest_number_there_is_is_no_measurement(save, reflectance, caplog, dtype, lowest):
    bands = reflectance.astype(dtype)
    bands[:, :, :100] = lowest
    with caplog.at_level(logging.INFO):
        found = picture(save(bands))
    assert "is taken for no data; it declares none" in caplog.text
    rest = picture(save(reflectance[:, :, 100:], "b.tif"))
    assert np.abs(found[:, 100:] - rest).max() <= 2


def test_a_band_that_is_not_shown_is_spoken_of(save, reflectance, caplog):
    with caplog.at_level(logging.INFO):
        picture(save(reflectance[:2]))
    assert "band 1 of 2 is shown, in grey; the other is left out" in caplog.text
