"""Every format, reopened with the programs people use; provenance; a failure leaves nothing behind."""

import builtins
import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest

from largegen.errors import InputError, OutputError
from largegen.images import write as writers
from largegen.images.write import check_output, output_format, write_image
from largegen.slides.image_info import ImageInfo, read_provenance
from largegen.version import __version__

openslide = pytest.importorskip("openslide")
pyvips = pytest.importorskip("pyvips")

WIDTH, HEIGHT = 700, 530
ALL = ("out.tif", "out.ome.tif", "out.dzi", "out.png", "out.jpg")
PROVENANCE = {"command": "generate --ref 'a & b (é) \"c\".svs' <x>", "seed": 7, "licence": "CC-BY-NC-ND-4.0"}


@dataclass(frozen=True)
class Place:  # what writers needs of slide.Georeference
    crs: str
    transform: tuple


@pytest.fixture(scope="module")
def image():
    """(HEIGHT, WIDTH, 3) uint8, smooth, no two places alike: a JPEG keeps it, and a flip or a shift shows."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x * 255 // WIDTH, y * 255 // HEIGHT, (x + y) * 255 // (WIDTH + HEIGHT)], -1).astype(np.uint8)


@pytest.fixture
def info():
    return ImageInfo(WIDTH, HEIGHT, mpp=0.499, description="a synthetic image", provenance=PROVENANCE)


def in_bands(image, edges=(0, 100, 101, 357, HEIGHT)):
    for top, bottom in pairwise(edges):
        yield top, image[top:bottom]


def write(path, image, info, **options):
    write_image(path, in_bands(image), info, **options)
    return path


def pixels(path):
    return pyvips.Image.new_from_file(str(path)).numpy()


def assert_close(actual, expected):
    assert actual.shape == expected.shape
    assert np.abs(actual.astype(int) - expected).mean() < 2


def test_tiff_opens_with_all_levels_and_mpp_in_openslide_and_tifffile(tmp_path, image, info):
    tifffile = pytest.importorskip("tifffile")
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
    tifffile = pytest.importorskip("tifffile")
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
    tifffile = pytest.importorskip("tifffile")
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


@pytest.mark.parametrize(("width", "height"), [(1, 1), (5, 16), (300, 17), (64, 1000)])
def test_any_size_is_exact_as_png(tmp_path, width, height):
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    write_image(tmp_path / "out.png", [(0, noise)], ImageInfo(width, height))
    np.testing.assert_array_equal(pixels(tmp_path / "out.png"), noise)


def test_memory_does_not_grow_with_the_image(tmp_path):
    pytest.importorskip("resource")
    program = """if True:
        import numpy as np, resource, sys
        from largegen.slides.image_info import ImageInfo
        from largegen.images.write import write_image
        width, height = 2048, int(sys.argv[2])
        band = np.zeros((256, width, 3), np.uint8)
        write_image(sys.argv[1], ((y, band) for y in range(0, height, 256)), ImageInfo(width, height))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    """
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kB here

    def peak(height):
        command = [sys.executable, "-c", program, tmp_path / "out.tif", str(height)]
        return int(subprocess.run(command, capture_output=True, check=True).stdout) * unit

    assert peak(2048 * 16) - peak(2048) < 2048**2 * 3 * 4  # a quarter of the 16 times larger image


def test_jpeg_quality_is_passed_on(tmp_path, info):
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for name in ("out.tif", "out.jpg"):
        low, high = tmp_path / f"low{name}", tmp_path / f"high{name}"
        write(low, noise, info, jpeg_quality=30)
        write(high, noise, info, jpeg_quality=95)
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
    rasterio = pytest.importorskip("rasterio")
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
    rasterio = pytest.importorskip("rasterio")
    path = write(tmp_path / name, image, scene)
    assert (tmp_path / world).exists()
    with rasterio.open(path) as opened:
        assert tuple(opened.transform)[:6] == scene.georeference.transform


def test_without_rasterio_a_scene_gets_a_world_file_and_a_warning(tmp_path, image, scene, monkeypatch, caplog):
    real_import = builtins.__import__

    def without_rasterio(name, *args, **kwargs):
        if name == "rasterio":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_rasterio)
    write(tmp_path / "out.tif", image, scene)
    assert (tmp_path / "out.tfw").read_text().split() == [
        "5.0",
        "0.0",
        "0.0",
        "-5.0",
        "500002.5",
        "3999997.5",
    ]
    assert "largegen[geo]" in caplog.text


def test_each_band_is_on_disk_before_the_next_is_asked_for(tmp_path, image, info):
    on_disk = []

    def bands():
        for top in range(0, HEIGHT, 10):
            on_disk.append(sum(file.stat().st_size for file in tmp_path.iterdir()))
            yield top, image[top : top + 10]

    write_image(tmp_path / "out.png", bands(), info)
    rows = np.array(on_disk) / (WIDTH * 3)
    assert (np.arange(0, HEIGHT, 10) - rows <= 20).all()  # all but what a file buffer holds


@pytest.mark.parametrize("name", ALL)
def test_overwriting_replaces_the_whole_image(tmp_path, image, info, name):
    path = write(tmp_path / name, image, info)
    before = sorted(file.relative_to(tmp_path) for file in tmp_path.rglob("*"))
    write(path, 255 - image, replace(info, description="second"))
    assert sorted(file.relative_to(tmp_path) for file in tmp_path.rglob("*")) == before
    assert read_provenance(path)["description"] == "second"
    shown = tmp_path / "out_files/10/0_0.jpg" if name == "out.dzi" else path
    assert_close(pixels(shown)[:255, :255], 255 - image[:255, :255])


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_an_error_in_the_bands_leaves_the_old_file_alone(tmp_path, image, info, name, failure):
    def failing():
        yield 0, image[:100]
        raise failure

    with pytest.raises(failure):
        write_image(tmp_path / "new" / name, failing(), info)
    assert list((tmp_path / "new").iterdir()) == []
    path = write(tmp_path / name, image, info)
    with pytest.raises(failure):
        write_image(path, failing(), replace(info, description="second"))
    assert read_provenance(path) == info.record()


def test_bands_that_do_not_fit_are_refused(tmp_path, image, info):
    for bands in (
        [(0, image[:100])],  # too few
        [(0, image[:100]), (200, image[200:])],  # a gap
        [(0, image[:, :600])],  # too narrow
        [(0, image.astype(np.float32))],
    ):
        with pytest.raises(ValueError, match="band"):
            write_image(tmp_path / "out.tif", iter(bands), info)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(signal, "SIGINT") or os.name == "nt", reason="needs POSIX signals")
def test_ctrl_c_while_libvips_writes_leaves_nothing(tmp_path):
    program = """if True:
        import numpy as np, sys
        from largegen.slides.image_info import ImageInfo
        from largegen.images.write import write_image
        band = np.random.default_rng(0).integers(0, 256, (500, 6000, 3), dtype=np.uint8)
        def bands():
            for top in range(0, 6000, 500):
                yield top, band
            print("spooled", flush=True)
        write_image(sys.argv[1], bands(), ImageInfo(6000, 6000))
    """
    out = tmp_path / "out.png"
    job = subprocess.Popen(
        [sys.executable, "-c", program, out], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert job.stdout.readline() == "spooled\n"
    while not any(file.suffix == ".png" for file in tmp_path.iterdir()):
        assert job.poll() is None, "finished before it could be interrupted"
    job.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in job.communicate(timeout=20)[1]
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path):
    """A function that makes a file system of so many kB."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def make(size_kb):
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "none", folder], capture_output=True)
        if done.returncode:
            pytest.skip("needs the permission to mount a tmpfs")
        return folder

    yield make
    subprocess.run(["umount", "--lazy", folder], capture_output=True)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size_kb", [600, 1100, 1200])  # too small for the temporary (1087 kB); for the rest
def test_a_full_disk_is_one_line_and_leaves_nothing(small_disk, info, name, size_kb):
    folder = small_disk(size_kb)
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    with pytest.raises(OutputError, match="no space left on the disk") as caught:
        write(folder / name, noise, info)
    assert len(str(caught.value).splitlines()) == 1
    assert list(folder.iterdir()) == []


def test_a_disk_that_fills_up_while_bands_arrive(small_disk, image, info):
    folder = small_disk(1200)

    def bands():
        (folder / "someone-elses").write_bytes(bytes(800_000))
        yield from in_bands(image)

    with pytest.raises(OutputError, match="no space left on the disk"):
        write_image(folder / "out.tif", bands(), info)
    assert [file.name for file in folder.iterdir()] == ["someone-elses"]


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
    with pytest.raises(OutputError, match="--overwrite"):
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
