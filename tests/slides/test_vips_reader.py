"""Files that libvips opens: what their headers say, and damage to them."""

import subprocess
import sys

import numpy as np
import pytest
import tifffile
from helpers.forked import check_reads
from helpers.slides import save_slide, tissue_like

from largegen.errors import SlideError
from largegen.slides.slide import open_slide


def test_an_aperio_slide_tells_its_objective(make_slide):
    import openslide

    path = make_slide(700, 600, mpp=0.25, name="case.svs")
    assert openslide.OpenSlide.detect_format(path) == "aperio"
    slide = open_slide(path)
    assert (slide.vendor, slide.mpp, slide.magnification) == ("aperio", 0.25, 40.0)
    assert slide.downsample_for(mag=20) == pytest.approx(2)


def test_openslide_reads_what_libvips_reads(make_slide, monkeypatch):
    path = make_slide(901, 603, mpp=0.25, name="case.svs")
    by_vips = open_slide(path)
    monkeypatch.setattr("largegen.slides.readers.VIPS_VENDORS", ())
    by_openslide = open_slide(path)
    assert (by_vips.reader, by_openslide.reader) == ("vips", "openslide")
    for name in ("width", "height", "levels", "mpp", "magnification", "background", "vendor"):
        assert getattr(by_vips, name) == getattr(by_openslide, name)
    for downsample in (1.0, 1.5, 2.0, 2.7):
        place = (-20, 31, 200, 150, downsample)
        assert np.abs(by_vips.read(*place).astype(int) - by_openslide.read(*place)).mean() < 3


def test_an_ome_tiff_has_its_levels_in_subifds_and_its_resolution_in_xml(tmp_path):
    pixels = tissue_like(640, 512)
    size = {"PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 250, "PhysicalSizeYUnit": "nm"}
    with tifffile.TiffWriter(tmp_path / "case.ome.tif", ome=True) as writer:
        layout = {"tile": (256, 256), "photometric": "rgb", "compression": "deflate"}
        writer.write(pixels, subifds=1, metadata={"axes": "YXS", **size}, **layout)
        writer.write(pixels[::2, ::2], subfiletype=1, **layout)
    slide = open_slide(tmp_path / "case.ome.tif")
    assert slide.levels == [(640, 512), (320, 256)]
    assert (slide.name, slide.vendor, slide.mpp) == ("case", "ome", 0.25)
    assert np.array_equal(slide.read(0, 0, 320, 256, 2), pixels[::2, ::2])


def test_a_print_resolution_is_not_a_microscope_s(tmp_path):
    assert open_slide(save_slide(tmp_path / "a.tif", tissue_like(300, 300), mpp=25400 / 72)).mpp is None
    assert open_slide(save_slide(tmp_path / "b.tif", tissue_like(300, 300))).mpp is None


@pytest.mark.parametrize("name", ["missing.svs", "folder.svs", "empty.svs", "text.svs", "header.svs", "float.tif"])
def test_a_bad_file_is_one_line_that_names_it(tmp_path, make_slide, name, capfd):
    path = tmp_path / name
    if name == "folder.svs":
        path.mkdir()
    elif name == "float.tif":
        save_slide(path, np.random.rand(64, 64, 1).astype(np.float32), compression="deflate")
    elif name != "missing.svs":
        whole = make_slide(600, 600, name="whole.svs").read_bytes()
        path.write_bytes({"empty.svs": b"", "text.svs": b"not a slide\n", "header.svs": whole[:64]}[name])
    with pytest.raises(SlideError) as error:
        open_slide(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", [".tif", ".png", ".jpg"])
def test_a_truncated_file_is_refused(tmp_path, suffix):
    whole = save_slide(tmp_path / f"whole{suffix}", tissue_like(900, 900))
    for part in (0.3, 0.6, 0.9):
        path = tmp_path / f"part{suffix}"
        path.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * part)])
        with pytest.raises(SlideError, match="truncated"):
            open_slide(path)


def test_a_damaged_tile_is_an_error_and_not_a_black_square(tmp_path):
    path = save_slide(tmp_path / "a.tif", tissue_like(900, 900), compression="deflate")
    with tifffile.TiffFile(path) as tiff:
        start, size = tiff.pages[0].dataoffsets[5], tiff.pages[0].databytecounts[5]
    data = bytearray(path.read_bytes())
    data[start : start + size] = bytes(size)
    path.write_bytes(data)
    slide = open_slide(path)
    assert slide.read(0, 0, 200, 200).min() > 0
    for _ in range(2):  # not only the first time
        with pytest.raises(SlideError, match="damaged"):
            slide.read(300, 300, 100, 100)
    assert slide.read(0, 0, 200, 200).min() > 0


def test_threads_and_forked_workers_read_the_same(slide_path):
    check_reads(slide_path, (1200, 900), (200, 150))


def test_a_bigtiff_of_either_byte_order_is_read(tmp_path):
    pixels = tissue_like(640, 512)
    for order in "<>":
        layout = {"tile": (256, 256), "photometric": "rgb", "compression": "deflate", "metadata": None}
        with tifffile.TiffWriter(tmp_path / "a.tif", bigtiff=True, byteorder=order) as writer:
            writer.write(pixels, **layout)
            writer.write(pixels[::2, ::2], **layout)
        slide = open_slide(tmp_path / "a.tif")
        assert slide.levels == [(640, 512), (320, 256)]
        assert np.array_equal(slide.read(0, 0, 640, 512), pixels)


def test_a_system_that_does_not_fork_can_open_slides(slide_path):
    code = "import os, sys; del os.register_at_fork, os.fork; from largegen.slides.slide import open_slide"
    code += "; open_slide(sys.argv[1]).read(0, 0, 9, 9)"
    assert subprocess.run([sys.executable, "-c", code, str(slide_path)]).returncode == 0
