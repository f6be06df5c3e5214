"""Scale, from whatever says it, and never by a guess in silence."""

import logging

import numpy as np
import pytest
import tifffile
from helpers.slides import save_slide, save_tiff, tissue_like

from largegen.errors import SlideError
from largegen.slides.ome import micrometres, number, read_ome
from largegen.slides.slide import open_slide

OME = (
    "<?xml version='1.0'?><ome:OME xmlns:ome='http://www.openmicroscopy.org/Schemas/OME/2016-06'>"
    "<ome:Instrument ID='I'><ome:Objective ID='O:0' NominalMagnification='4'/>"
    "<ome:Objective ID='O:1' NominalMagnification='20.0'/></ome:Instrument>"
    "<ome:Image ID='Image:1'><ome:Pixels SizeX='9' SizeY='9' PhysicalSizeX='7' PhysicalSizeY='7'/></ome:Image>"
    "<ome:Image ID='Image:0'><ome:ObjectiveSettings ID='O:1'/>"
    "<ome:Pixels SizeX='320' SizeY='256' SizeC='3' {size}><ome:Channel SamplesPerPixel='3'/></ome:Pixels></ome:Image>"
    "</ome:OME>"
)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return tissue_like(320, 256)


@pytest.fixture
def save(tmp_path, pixels):
    def write(description=None, name="a.tif", **options):
        return save_tiff(tmp_path / name, pixels, description=description, **{"tile": (128, 128)} | options)

    return write


def aperio(**fields) -> str:
    return "Aperio Image Library v11\r\n320x256|" + "|".join(f"{k} = {v}" for k, v in fields.items())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("0,2730", 0.273), ("0.25 um", 0.25), ("40x", 40), (" +2,5e-1", 0.25), (".5", 0.5), ("-1", None)],
        *[(text, None) for text in ("0", "", None, "nan", "inf", "x40", "1e999")],
    ],
)
def test_numbers_as_makers_write_them(text, value):
    assert number(text) == (value if value is None else pytest.approx(value))


@pytest.mark.parametrize(
    ("unit", "size"),
    [
        *[("µm", 1), ("μm", 1), ("um", 1), ("microns", 1), ("nm", 1e-3), ("mm", 1e3), ("m", 1e6), ("Å", 1e-4)],
        *[("Å", 1e-4), ("in", 25400), ("pm", 1e-6), ("pixel", None), ("reference frame", None), ("", None)],
    ],
)
def test_units_of_length(unit, size):
    assert micrometres(unit) == size


@pytest.mark.parametrize(("fields", "mpp"), [({"MPP": "0,2730"}, 0.273), ({"MPP": "0.5", "AppMag": "20"}, 0.5)])
@pytest.mark.parametrize("name", ["a.svs", "a.tif"])
def test_aperio_with_points_and_commas(save, fields, mpp, name, caplog):
    with caplog.at_level(logging.INFO):
        slide = open_slide(save(aperio(**fields), name))
    assert (slide.mpp, slide.mpp_from) == (pytest.approx(mpp), None) and not caplog.messages


@pytest.mark.parametrize("mag", ["40", "40x", "40,0"])
def test_an_objective_alone_is_used_and_said(save, mag, caplog):
    with caplog.at_level(logging.INFO):
        slide = open_slide(save(aperio(AppMag=mag, MPP="unknown")))
    assert (slide.mpp, slide.mpp_from, slide.magnification) == (0.25, "objective", 40)
    assert slide.downsample_for(mag=20) == 2
    assert "0.25 um/px, derived from its objective of 40x" in caplog.text
    assert open_slide(slide.path, source_mpp=0.3).mpp_from is None


SIZES = {
    "PhysicalSizeX='0.5' PhysicalSizeY='0.5'": 0.5,
    "PhysicalSizeX='0,5' PhysicalSizeY='0,5' PhysicalSizeXUnit='&#181;m' PhysicalSizeYUnit='&#xB5;m'": 0.5,
    "PhysicalSizeX='500' PhysicalSizeXUnit='nm' PhysicalSizeY='0.0005' PhysicalSizeYUnit='mm'": 0.5,
    "PhysicalSizeX = '5.0E-4' PhysicalSizeXUnit = 'mm'": 0.5,
    "PhysicalSizeX='5000' PhysicalSizeXUnit='Å'": 0.5,
    "PhysicalSizeX='3' PhysicalSizeXUnit='pixel'": 0.5,  # by its objective
}


@pytest.mark.parametrize("size", SIZES)
def test_ome_as_xml(save, size):
    slide = open_slide(save(OME.format(size=size).encode()))
    assert (slide.mpp, slide.magnification) == (pytest.approx(SIZES[size]), 20)
    assert slide.mpp_from == ("objective" if "pixel" in size else None)


def test_damaged_or_dangerous_ome_says_nothing(save):
    bomb = "<!DOCTYPE x [<!ENTITY a 'b'>]><OME>&a;</OME>"
    for text in (OME.format(size="")[:300], bomb, "OME", "<x/>"):
        assert read_ome(text, 320, 256) is None
        assert open_slide(save(text)).mpp is None


@pytest.mark.parametrize("suffix", [".tif", ".btf"])
@pytest.mark.parametrize(
    ("unit", "value", "mpp"),
    [("CENTIMETER", 20000, 0.5), ("INCH", 50800, 0.5), ("NONE", 20000, None), ("INCH", 72, None)],
)
def test_resolution_tags(save, unit, value, mpp, suffix):
    slide = open_slide(save(name=f"a{suffix}", resolution=(value, value), resolutionunit=unit))
    assert slide.mpp == (mpp if mpp is None else pytest.approx(mpp, rel=1e-5))
    if mpp is None:
        with pytest.raises(SlideError, match="source_mpp"):
            slide.downsample_for(mag=20)


@pytest.mark.parametrize(
    ("unit", "per_unit", "mpp"),
    [
        *[("um", 2, 0.5), ("\\u00B5m", 2, 0.5), ("micron", 2, 0.5), ("nm", 0.002, 0.5), ("mm", 2000, 0.5)],
        *[("inch", 50800, 0.5), ("pixel", 2, None), ("", 2, None)],
    ],
)
def test_the_unit_of_imagej(tmp_path, pixels, unit, per_unit, mpp):
    metadata = {"unit": unit, "axes": "YXS"} if unit else {"axes": "YXS"}
    tifffile.imwrite(tmp_path / "a.tif", pixels, imagej=True, resolution=(per_unit, per_unit), metadata=metadata)
    assert open_slide(tmp_path / "a.tif").mpp == (mpp if mpp is None else pytest.approx(mpp, rel=1e-4))


def test_a_qptiff(save):
    text = (
        '<?xml version="1.0" encoding="utf-16"?><PerkinElmer-QPI-ImageDescription><ScanProfile><root>'
        "<ScanResolution><PixelSizeMicrons>0,4989</PixelSizeMicrons><Magnification>20</Magnification></ScanResolution>"
        "</root></ScanProfile></PerkinElmer-QPI-ImageDescription>"
    )
    slide = open_slide(save(text, "a.qptiff"))
    assert (slide.mpp, slide.magnification) == (0.4989, 20)


@pytest.mark.parametrize("how", ["tags", "ome"])
@pytest.mark.parametrize(("x", "y"), [(0.25, 0.5), (0.5, 0.25)])
def test_both_sides_of_pixels_that_are_no_squares(save, pixels, how, x, y, caplog):
    if how == "tags":
        path = save(resolution=(1e4 / x, 1e4 / y), resolutionunit="CENTIMETER")
    else:
        path = save(OME.format(size=f"PhysicalSizeX='{x}' PhysicalSizeY='{y}'"))
    with caplog.at_level(logging.INFO):
        slide = open_slide(path)
    assert "both are used" in caplog.text
    assert slide.mpp == pytest.approx(0.25)
    assert (slide.width, slide.height) == ((320, 512) if x < y else (640, 256))
    half = slide.read(0, 0, slide.width // 2, slide.height // 2, 2.0)  # at 0.5 um
    expected = pixels[:, ::2] if x < y else pixels[::2]
    assert half.shape == expected.shape and np.abs(half - expected.astype(int)).mean() < 6
    assert open_slide(path, source_mpp=0.25).height == 256


def test_sides_that_differ_by_a_rounding_are_equal(save):
    path = save(resolution=(1e4 / 0.25, 1e4 / 0.2501), resolutionunit="CENTIMETER")
    slide = open_slide(path)
    assert (slide.width, slide.height) == (320, 256)


def test_a_png_with_its_resolution(tmp_path, pixels):
    import pyvips

    pyvips.Image.new_from_array(pixels).copy(xres=2000, yres=2000).write_to_file(str(tmp_path / "a.png"))
    assert open_slide(tmp_path / "a.png").mpp == pytest.approx(0.5)
    assert open_slide(save_slide(tmp_path / "b.png", pixels)).mpp is None
