"""Scenes by rasterio's rules: what is no data is never embedded, and the place on Earth is kept, or said to be lost."""

import logging

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp

from largegen.embeddings.embed import EmbedOptions, plan_tiles
from largegen.slides.slide import open_slide

UTM = rasterio.Affine(1, 0, 500000, 0, -1, 4600000)
DATA = np.s_[:, 256:512]  # columns with data: 2 of 6 tiles
PLACE = {"crs": "EPSG:32614", "transform": UTM}


@pytest.fixture(scope="module")
def land() -> np.ndarray:
    """(4, 512, 768) uint8, 1 to 255."""
    return np.random.default_rng(0).integers(1, 255, (4, 512, 768)).astype(np.uint8)


@pytest.fixture
def save(tmp_path):
    def write(bands, name="a.tif", mask=None, interpretation=None, descriptions=None, overviews=(), **options):
        options = {"driver": "GTiff", "tiled": True, "blockxsize": 256, "blockysize": 256} | PLACE | options
        count, height, width = bands.shape
        size = {"count": count, "height": height, "width": width, "dtype": bands.dtype}
        with rasterio.open(tmp_path / name, "w", **size, **{k: v for k, v in options.items() if v is not None}) as file:
            if interpretation:
                file.colorinterp = interpretation
            file.write(bands)
            if mask is not None:
                file.write_mask(mask)
            if descriptions:
                file.descriptions = descriptions
            if overviews:
                file.build_overviews(overviews, rasterio.enums.Resampling.average)
        return tmp_path / name

    return write


def kept(path) -> np.ndarray:
    """Which of the tiles of 256 px are embedded: (rows, columns) bool."""
    with open_slide(path, source_gsd=1) as scene:
        assert scene.kind == "scene"
        return plan_tiles(scene, 1.0, EmbedOptions(tile_px=256))[1]


@pytest.fixture
def valid() -> np.ndarray:
    mask = np.zeros((512, 768), np.uint8)
    mask[DATA] = 255
    return mask


MIDDLE = [[False, True, False]] * 2


@pytest.mark.parametrize("scale", [1, 257])
@pytest.mark.parametrize("under", [0, 255, 77])
@pytest.mark.parametrize("overviews", [(), (2, 4)])
def test_an_alpha_band(save, land, valid, scale, under, overviews):
    bands = np.where(valid, land[:3], under).astype(np.uint8)
    bands = np.concatenate([bands, valid[None]]).astype(np.uint8 if scale == 1 else np.uint16) * scale
    names = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)
    path = save(bands, interpretation=names, overviews=overviews)
    assert np.array_equal(kept(path), MIDDLE)
    assert (open_slide(path).read(0, 0, 200, 200) == 0).all()


@pytest.mark.parametrize("internal", ["YES", "NO"])
@pytest.mark.parametrize("overviews", [(), (2, 4)])
@pytest.mark.parametrize("compress", ["deflate", "jpeg"])
def test_a_mask_in_or_beside_the_file(save, land, valid, internal, overviews, compress):
    more = {"photometric": "YCBCR"} if compress == "jpeg" else {}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal):
        path = save(land[:3], mask=valid, compress=compress, overviews=overviews, **more)
    assert (path.with_name("a.tif.msk").exists()) == (internal == "NO")
    assert np.array_equal(kept(path), MIDDLE)


@pytest.mark.parametrize(("dtype", "nodata"), [("uint8", 0), ("uint8", 255), ("uint16", 0), ("uint16", 65535)])
def test_a_nodata_value_and_a_sparse_file(tmp_path, land, dtype, nodata):
    size = {"driver": "GTiff", "width": 768, "height": 512, "count": 3, "dtype": dtype, "nodata": nodata, "tiled": True}
    size |= {"sparse_ok": True, "blockxsize": 256, "blockysize": 256}
    with rasterio.open(tmp_path / "a.tif", "w", **size, **PLACE) as file:
        file.write(land[:3, :, 256:512].astype(dtype), window=rasterio.windows.Window(256, 0, 256, 512))
    assert np.array_equal(kept(tmp_path / "a.tif"), MIDDLE)


def test_a_palette_with_an_index_of_no_data(save, land, valid):
    indices = np.where(valid, land[0] % 8, 15).astype(np.uint8)[None]
    path = save(indices, nodata=15, photometric="palette")
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {i: (20 * i, 200 - 20 * i, 90, 255) for i in range(16)})
    assert np.array_equal(kept(path), MIDDLE)
    expected = np.stack([20 * (land[0] % 8), 200 - 20 * (land[0] % 8), np.full((512, 768), 90)], -1)
    assert np.array_equal(open_slide(path).read(256, 0, 256, 512), expected[DATA])


@pytest.mark.parametrize("interleave", ["band", "pixel"])
@pytest.mark.parametrize("scale", [1, 257])
def test_four_bands_in_planes_or_pixels(save, land, interleave, scale):
    bands = land.astype(np.uint8 if scale == 1 else np.uint16) * scale
    slide = open_slide(save(bands, interleave=interleave))
    found = slide.read(0, 0, 768, 512).astype(float)
    if scale == 1:
        assert np.array_equal(found, land[:3].transpose(1, 2, 0))
    else:  # stretched from the 2nd to the 98th percentile
        assert abs(found.mean() - 127) < 3


@pytest.mark.parametrize("how", ["interpretation", "description"])
def test_bands_that_say_which_colour_they_are(save, land, how):
    names = ["blue", "green", "red", "undefined"]
    if how == "interpretation":
        path = save(land, photometric="MINISBLACK", interpretation=[ColorInterp[name] for name in names])
    else:
        path = save(land, photometric="MINISBLACK", descriptions=["Blue", "Green", "Red", "NIR"])
    assert np.array_equal(open_slide(path).read(0, 0, 768, 512), land[[2, 1, 0]].transpose(1, 2, 0))


def test_many_bands_without_names_are_taken_in_order_with_a_word(save, land, caplog):
    with caplog.at_level(logging.INFO):
        open_slide(save(np.concatenate([land, land]), photometric="MINISBLACK"))
    assert "bands 1, 2, 3 of 8 are taken for red, green and blue: none is named" in caplog.text


@pytest.mark.parametrize("suffix", [".tfw", ".wld"])
def test_a_world_file(save, land, suffix):
    path = save(land[:3], crs=None, transform=None)
    path.with_suffix(suffix).write_text("2\n0\n0\n-2\n500001\n4599999\n")
    slide = open_slide(path)
    assert (slide.kind, slide.georeference.crs, slide.gsd_m) == ("scene", "", None)
    assert slide.georeference.transform == (2, 0, 500000, 0, -2, 4600000)
    assert open_slide(path, source_gsd=2).downsample_for(gsd_m=4) == 2
    with pytest.raises(Exception, match="source_gsd"):
        slide.downsample_for(gsd_m=4)


@pytest.mark.parametrize(("name", "world"), [("a.png", "a.pgw"), ("a.jpg", "a.jgw"), ("a.jpg", "a.wld")])
def test_a_plain_image_with_a_world_file(tmp_path, land, name, world):
    driver = {"a.png": "PNG", "a.jpg": "JPEG"}[name]
    with rasterio.open(tmp_path / name, "w", driver=driver, width=768, height=512, count=3, dtype="uint8") as file:
        file.write(land[:3])
    for left in tmp_path.glob("*.aux.xml"):
        left.unlink()
    (tmp_path / world).write_text("1\n0\n0\n-1\n500000.5\n4599999.5\n")
    slide = open_slide(tmp_path / name)
    assert slide.kind == "scene" and slide.georeference.transform == tuple(UTM)[:6]


@pytest.mark.parametrize("name", ["a.tif", "a.jpg"])
def test_the_coordinate_system_beside_a_world_file(tmp_path, land, name, caplog):
    driver = {"a.tif": "GTiff", "a.jpg": "JPEG"}[name]
    with rasterio.open(tmp_path / name, "w", driver=driver, width=768, height=512, count=3, dtype="uint8") as file:
        file.write(land[:3])
    (tmp_path / "a.wld").write_text("5\n0\n0\n-5\n500000.5\n4599999.5\n")
    (tmp_path / "a.prj").write_text(rasterio.crs.CRS.from_epsg(32614).to_wkt())
    slide = open_slide(tmp_path / name)
    assert (slide.georeference.crs, slide.gsd_m) == ("EPSG:32614", 5)
    (tmp_path / "a.prj").write_text("nonsense")
    caplog.set_level(logging.INFO)
    assert open_slide(tmp_path / name).georeference.crs == ""
    assert "a.prj: no coordinate system that can be read" in caplog.text
    (tmp_path / "a.wld").write_text("nonsense")
    assert open_slide(tmp_path / name).georeference is None
    assert "its place on Earth is not kept: it is given by a world file that cannot be read" in caplog.text


def points(bent: float) -> list[GroundControlPoint]:
    corners = [(0, 0), (0, 768), (512, 0), (512, 768), (256, 384)]
    return [
        GroundControlPoint(row, column, 500000 + 2 * column + bent * (row == 256), 4600000 - 2 * row, 0)
        for row, column in corners
    ]


def test_control_points(save, land, caplog):
    straight = save(land[:3], "a.tif", gcps=points(0), crs="EPSG:32614", transform=None)
    slide = open_slide(straight)
    assert slide.georeference.crs == "EPSG:32614" and slide.gsd_m == pytest.approx(2)
    assert np.allclose(slide.georeference.transform, (2, 0, 500000, 0, -2, 4600000))
    with caplog.at_level(logging.INFO):
        bent = open_slide(save(land[:3], "b.tif", gcps=points(50), crs="EPSG:32614", transform=None))
    assert bent.kind == "scene" and bent.georeference is None
    assert "its place on Earth is not kept: its 5 control points fit no plane transform" in caplog.text


def test_a_transform_without_a_coordinate_system(save, land):
    slide = open_slide(save(land[:3], crs=None))
    assert (slide.kind, slide.georeference.crs, slide.gsd_m) == ("scene", "", None)
    assert slide.georeference.transform == tuple(UTM)[:6]


def test_pixels_of_one_by_two_metres(save, land):
    path = save(land[:3], transform=rasterio.Affine(1, 0, 500000, 0, -2, 4600000))
    slide = open_slide(path)
    assert (slide.width, slide.height, slide.gsd_m) == (768, 1024, 1.0)
    assert slide.georeference.transform == (1, 0, 500000, 0, -1, 4600000)
    assert kept(path).shape == (4, 3)
    half = slide.read(0, 0, 384, 512, 2.0)
    means = land[:3].reshape(3, 512, 384, 2).mean(-1).transpose(1, 2, 0)
    assert np.corrcoef(half.ravel(), means.ravel())[0, 1] > 0.9
    assert slide.nodata_mask(512).shape == slide.thumbnail(512).shape[:2]


def test_upper_case_suffixes_and_btf(save, land):
    for name in ("a.TIF", "b.btf", "c.TIFF"):
        assert open_slide(save(land[:3], name)).kind == "scene"
