"""Every format, reopened with the programs people use; provenance; what is found out before the work."""

import json
import os
import xml.etree.ElementTree as ET
from dataclasses import dataclass, replace

import numpy as np
import pytest
import rasterio
import tifffile
from helpers.images import ALL, PROVENANCE, noise, pixels, write

from largegen.errors import InputError, OutputError
from largegen.images import write as writers
from largegen.images.write import check_output, output_format
from largegen.slides.image_info import read_provenance
from largegen.version import __version__

openslide = pytest.importorskip("openslide")
pyvips = pytest.importorskip("pyvips")


@dataclass(frozen=True)
class Place:  # what writers needs of slide.Georeference
    crs: str
    transform: tuple


def assert_close(actual, expected):
    assert actual.shape == expected.shape
    assert np.abs(actual.astype(int) - expected).mean() < 2


def test_tiff_opens_with_all_levels_and_mpp_in_openslide_and_tifffile(tmp_path, image, info):
    path = write(tmp_path / "out.tif", image, info)
    slide = openslide.OpenSlide(path)
    assert slide.level_dimensions == ((700, 530), (350, 265), (175, 132))
    assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.499, rel=1e-5)
    assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.499, rel=1e-5)
    assert_close(np.asarray(slide.read_region((0, 0), 0, (700, 530)))[..., :3], image)
    assert_close(np.asarray(slide.read_region((0, 0), 1, (350, 265)))[..., :3], image[::2, ::2])
    with tifffile.TiffFile(path) as tiff:
        assert [page.shape for page in tiff.pages] == [(530, 700, 3), (265, 350, 3), (132, 175, 3)]
        assert all(page.tilewidth == 256 and page.compression.name == "JPEG" for page in tiff.pages)
        assert len(tiff.series[0].levels) == 3
        assert tiff.pages[0].resolutionunit.name == "CENTIMETER"
        assert tiff.pages[0].get_resolution("micrometer")[0] == pytest.approx(1 / 0.499, rel=1e-5)
        assert json.loads(tiff.pages[0].description)["generated_by"] == f"largegen {__version__}"


@pytest.mark.parametrize("bigtiff_from", [2**31, 1])
def test_tiff_without_a_known_resolution_claims_none(tmp_path, image, info, monkeypatch, bigtiff_from):
    monkeypatch.setattr(writers, "CLASSIC_TIFF_BYTES", bigtiff_from)
    path = write(tmp_path / "out.tif", image, replace(info, mpp=None))
    slide = openslide.OpenSlide(path)
    assert slide.level_count == 3
    assert "openslide.mpp-x" not in slide.properties
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_bigtiff == (bigtiff_from == 1)
        assert [page.resolutionunit.name for page in tiff.pages] == ["NONE"] * 3


@pytest.mark.parametrize(("mpp", "gsd_m", "unit"), [(0.5, None, "µm"), (None, 5.0, "m"), (None, None, None)])
def test_ome_tiff_has_its_pyramid_and_physical_size(tmp_path, image, info, mpp, gsd_m, unit):
    path = write(tmp_path / "out.ome.tif", image, replace(info, mpp=mpp, gsd_m=gsd_m))
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome
        series = tiff.series[0]
        assert (series.kind, series.axes) == ("ome", "YXS")
        assert [level.shape for level in series.levels] == [(530, 700, 3), (265, 350, 3), (132, 175, 3)]
        described = ET.fromstring(tiff.ome_metadata).find("{*}Image/{*}Pixels").attrib
    assert (described["SizeX"], described["SizeY"], described["SizeC"]) == ("700", "530", "3")
    assert described.get("PhysicalSizeXUnit") == described.get("PhysicalSizeYUnit") == unit
    assert described.get("PhysicalSizeX") == (str(mpp or gsd_m) if unit else None)
    assert_close(pixels(path), image)


def test_deepzoom_has_tiles_that_make_the_image(tmp_path, image, info):
    path = write(tmp_path / "out.dzi", image, info)
    size = ET.parse(path).find("{*}Size").attrib
    assert (size["Width"], size["Height"]) == ("700", "530")
    levels = sorted(int(level.name) for level in (tmp_path / "out_files").iterdir() if level.is_dir())
    assert levels == list(range(11))  # 1 px to 2**10 px
    assert_close(pixels(tmp_path / "out_files" / "10" / "0_0.jpg"), image[:255, :255])
    assert_close(pixels(tmp_path / "out_files" / "10" / "2_2.jpg"), image[507:, 507:])


def test_png_is_exact_and_jpeg_is_close_and_both_have_the_resolution(tmp_path, image, info):
    png, jpeg = (write(tmp_path / name, image, info) for name in ("out.png", "out.jpg"))
    np.testing.assert_array_equal(pixels(png), image)
    assert_close(pixels(jpeg), image)
    for path in (png, jpeg):
        assert pyvips.Image.new_from_file(str(path)).xres == pytest.approx(1000 / 0.499, rel=1e-3)


def test_jpeg_quality_is_passed_on(tmp_path, info):
    for name in ("out.tif", "out.jpg"):
        low, high = tmp_path / f"low{name}", tmp_path / f"high{name}"
        write(low, noise(), info, jpeg_quality=30)
        write(high, noise(), info, jpeg_quality=95)
        assert low.stat().st_size < 0.6 * high.stat().st_size


@pytest.mark.parametrize("name", ALL)
def test_provenance_comes_back_from_every_format(tmp_path, image, info, name):
    path = write(tmp_path / name, image, info)
    record = json.loads((tmp_path / f"{name}.json").read_text())
    assert record == info.record()
    assert record.items() >= {**PROVENANCE, "mpp": 0.499, "generated_by": f"largegen {__version__}"}.items()
    if name != "out.dzi":  # which has no place for it
        (tmp_path / f"{name}.json").unlink()
    assert read_provenance(path) == record


def test_a_long_provenance_keeps_a_jpeg_readable(tmp_path, image, info):
    long = replace(info, provenance={"slides": ["x" * 100] * 1000})
    path = write(tmp_path / "out.jpg", image, long)
    assert_close(pixels(path), image)
    assert read_provenance(path)["description"] == "a synthetic image"
    assert json.loads((tmp_path / "out.jpg.json").read_text()) == long.record()


def test_no_provenance_in_what_others_made(tmp_path, image):
    pyvips.Image.new_from_array(image).pngsave(str(tmp_path / "other.png"))
    (tmp_path / "text.tif").write_text("not an image")
    assert read_provenance(tmp_path / "other.png") is None
    assert read_provenance(tmp_path / "text.tif") is None
    assert read_provenance(tmp_path / "missing.tif") is None


@pytest.fixture
def scene(info):
    place = Place("EPSG:26914", (5.0, 0.0, 500000.0, 0.0, -5.0, 4000000.0))
    return replace(info, mpp=None, gsd_m=5.0, georeference=place)


def test_a_scene_becomes_a_geotiff_with_its_pyramid(tmp_path, image, scene):
    path = write(tmp_path / "out.tif", image, scene)
    with rasterio.open(path) as opened:
        assert opened.crs.to_epsg() == 26914
        assert tuple(opened.transform)[:6] == scene.georeference.transform
        assert opened.overviews(1) == [2, 4]
        assert_close(opened.read().transpose(1, 2, 0), image)  # (3, H, W) -> (H, W, 3)
    assert openslide.OpenSlide(path).level_count == 3
    assert read_provenance(path) == scene.record()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.tif", "out.tif.json"]


@pytest.mark.parametrize(("name", "world"), [("out.png", "out.pgw"), ("out.jpeg", "out.jgw")])
def test_other_scenes_get_a_world_file(tmp_path, image, scene, name, world):
    path = write(tmp_path / name, image, scene)
    assert (tmp_path / world).exists()
    with rasterio.open(path) as opened:
        assert tuple(opened.transform)[:6] == scene.georeference.transform


@pytest.mark.parametrize("name", ALL)
def test_overwriting_replaces_the_whole_image(tmp_path, image, info, name):
    path = write(tmp_path / name, image, info)
    before = sorted(file.relative_to(tmp_path) for file in tmp_path.rglob("*"))
    write(path, 255 - image, replace(info, description="second"))
    assert sorted(file.relative_to(tmp_path) for file in tmp_path.rglob("*")) == before
    assert read_provenance(path)["description"] == "second"
    shown = tmp_path / "out_files/10/0_0.jpg" if name == "out.dzi" else path
    assert_close(pixels(shown)[:255, :255], 255 - image[:255, :255])


def test_output_format_goes_by_the_suffix():
    names = {
        "a.tif": "tiff",
        "a.TIFF": "tiff",
        "a.b.ome.tif": "ome-tiff",
        "a.dzi": "deepzoom",
        "a.jpeg": "jpeg",
    }
    assert {name: output_format(name) for name in names} == names
    for name in ("a", "a.svs", ".tif", "a.tif.gz"):
        with pytest.raises(InputError, match="suffix"):
            output_format(name)


def test_check_output_finds_out_early(tmp_path):
    check_output(tmp_path / "new" / "deep" / "out.tif")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out.tif").touch()
    with pytest.raises(OutputError, match="`overwrite=True`"):
        check_output(tmp_path / "out.tif")
    check_output(tmp_path / "out.tif", overwrite=True)
    with pytest.raises(OutputError, match="not a directory"):
        check_output(tmp_path / "out.tif" / "out.png")
    (tmp_path / "folder.tif").mkdir()
    with pytest.raises(OutputError, match="directory"):
        check_output(tmp_path / "folder.tif", overwrite=True)
    (tmp_path / "zoom_files").mkdir()
    with pytest.raises(OutputError, match="zoom_files"):
        check_output(tmp_path / "zoom.dzi")
    with pytest.raises(InputError, match="65500"):
        check_output(tmp_path / "out.jpg", size=(100, 65501))
    check_output(tmp_path / "out.jpg", size=(100, 65500))


def test_check_output_wants_a_writable_directory(tmp_path):
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o555)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write anywhere")
    with pytest.raises(OutputError, match="permission"):
        check_output(folder / "out.tif")
