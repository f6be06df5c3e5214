"""DeepZoom trees open as any other image, and damage to them is named."""

import time

import numpy as np
import pytest
from helpers.slides import tissue_like

from largegen.errors import SlideError
from largegen.images.write import write_image
from largegen.slides.find import find_files
from largegen.slides.image_info import ImageInfo
from largegen.slides.slide import open_slide

pyvips = pytest.importorskip("pyvips")

WIDTH, HEIGHT = 1100, 830
DESCRIPTION = (
    '<?xml version="1.0"?><Image xmlns="http://schemas.microsoft.com/deepzoom/2008" Format="{}" Overlap="{}" '
    'TileSize="{}"><Size Width="{}" Height="{}"/></Image>'
)


@pytest.fixture(scope="module")
def pixels():
    return tissue_like(WIDTH, HEIGHT)


def save(path, pixels, **options):
    image = pyvips.Image.new_from_array(pixels)
    image.dzsave(str(path.with_suffix("")), **{"suffix": ".png"} | options)
    return path


@pytest.mark.parametrize("tile_px, overlap", [(254, 1), (256, 0), (100, 7), (2000, 3)])
def test_its_pixels_are_those_of_a_png_of_the_same_array(tmp_path, pixels, tile_px, overlap):
    path = save(tmp_path / "a.dzi", pixels, tile_size=tile_px, overlap=overlap)
    pyvips.Image.new_from_array(pixels).write_to_file(str(tmp_path / "a.png"))
    with open_slide(path) as slide, open_slide(tmp_path / "a.png") as png:
        assert (slide.kind, slide.reader, slide.vendor, slide.lossy) == ("slide", "deepzoom", "deepzoom", False)
        assert slide.levels[:3] == [(1100, 830), (550, 415), (275, 208)]
        for place in ((0, 0, WIDTH, HEIGHT), (253, 255, 3, 2), (90, 611, 500, 219), (-20, 800, 60, 60)):
            assert np.array_equal(slide.read(*place)[:30, 20:], png.read(*place)[:30, 20:])
        smaller = slide.read(0, 0, 550, 415, 2).astype(int)
        assert np.abs(smaller - pixels.reshape(415, 2, 550, 2, 3).mean((1, 3))).max() <= 1


def test_an_image_of_ours_says_its_resolution(tmp_path, pixels):
    for info in (ImageInfo(WIDTH, HEIGHT, mpp=0.499), ImageInfo(WIDTH, HEIGHT, gsd_m=0.6)):
        write_image(tmp_path / "a.dzi", [(0, pixels)], info)
        slide = open_slide(tmp_path / "a.dzi")
        assert (slide.mpp, slide.gsd_m, slide.lossy) == (info.mpp, info.gsd_m, True)
        assert slide.provenance["generated_by"].startswith("largegen ")
        assert np.abs(slide.read(0, 0, WIDTH, HEIGHT).astype(int) - pixels).mean() < 4
    assert open_slide(tmp_path / "a.dzi", source_mpp=0.25).mpp == 0.25


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_so_does_a_png_or_jpeg_at_any_magnification(tmp_path, pixels, suffix):
    path = tmp_path / f"a{suffix}"
    write_image(path, [(0, pixels)], ImageInfo(WIDTH, HEIGHT, mpp=16.0))  # no microscope's: only the record says it
    slide = open_slide(path)
    assert (slide.mpp, slide.lossy) == (16.0, suffix == ".jpg")
    assert open_slide(path, source_mag=20).mpp == 0.5
    write_image(path, [(0, pixels)], ImageInfo(WIDTH, HEIGHT, gsd_m=0.6))
    assert open_slide(path).downsample_for(gsd_m=1.2) == 2


def test_an_image_resized_since_is_not_what_its_header_says(tmp_path, pixels):
    write_image(tmp_path / "a.png", [(0, pixels)], ImageInfo(WIDTH, HEIGHT, mpp=16.0))
    pyvips.Image.new_from_file(str(tmp_path / "a.png")).resize(0.5).write_to_file(str(tmp_path / "b.png"))
    slide = open_slide(tmp_path / "b.png")
    assert (slide.mpp, slide.provenance) == (None, {})


def test_what_is_transparent_or_grey_becomes_rgb(tmp_path, pixels):
    alpha = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
    alpha[:400] = 0
    slide = open_slide(save(tmp_path / "a.dzi", np.concatenate([pixels, alpha], 2)))
    assert (slide.read(0, 0, WIDTH, 300) == 255).all()
    assert np.array_equal(slide.read(0, 500, WIDTH, 100), pixels[500:600])
    grey = open_slide(save(tmp_path / "b.dzi", pixels[..., 0]))
    assert np.array_equal(grey.read(0, 0, 9, 9), pixels[:9, :9, :1].repeat(3, 2))


def test_a_missing_or_damaged_tile_is_named(tmp_path, pixels):
    path = save(tmp_path / "a.dzi", pixels, tile_size=256, overlap=0)
    folder = tmp_path / "a_files" / "11"
    slide = open_slide(path)
    (folder / "1_1.png").write_bytes((folder / "1_1.png").read_bytes()[:5000])
    (folder / "2_1.png").write_text("not an image")
    (folder / "1_2.png").unlink()
    (folder / "2_2.png").write_bytes((folder / "0_3.png").read_bytes())
    assert np.array_equal(slide.read(0, 0, 256, 256), pixels[:256, :256])
    for col, row, reason in ((1, 1, "damaged"), (2, 1, "damaged"), (1, 2, "missing"), (2, 2, r"\(256, 62\) px")):
        with pytest.raises(SlideError, match=rf"{col}_{row}\.png: .*{reason}") as error:
            slide.read(col * 256, row * 256, 10, 10)
        assert "\n" not in str(error.value)
    (folder / "0_0.png").unlink()
    with pytest.raises(SlideError, match=r"0_0\.png: .*missing"):
        open_slide(path)


@pytest.mark.parametrize(
    "xml, reason",
    [
        ("<Image", "not a DeepZoom"),
        ("<Image/>", "not a DeepZoom"),
        ("<Image TileSize='254' Format='png'><Size Width='x' Height='1'/></Image>", "not a DeepZoom"),
        (DESCRIPTION.format("png", 1, 254, 0, 10), "0x10 px"),
        (DESCRIPTION.format("png", 1, 10**6, 10, 10), "tiles of 1000000 px"),
        (DESCRIPTION.format("wdp", 1, 254, 10, 10), "format wdp"),
    ],
)
def test_a_bad_description_is_one_line(tmp_path, xml, reason):
    (tmp_path / "a.dzi").write_text(xml)
    with pytest.raises(SlideError, match=reason) as error:
        open_slide(tmp_path / "a.dzi")
    assert str(error.value).startswith(f"{tmp_path / 'a.dzi'}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_refused_and_not_expanded(tmp_path, encoding):
    entities = "".join(f"<!ENTITY e{n} '{f'&e{n - 1};' * 10 if n else 'x' * 100}'>" for n in range(12))
    xml = f"<?xml version='1.0' encoding='{encoding}'?><!DOCTYPE Image [{entities}]><Image>&e11;</Image>"
    (tmp_path / "a.dzi").write_bytes(xml.encode(encoding))
    started = time.perf_counter()
    with pytest.raises(SlideError, match="DOCTYPE"):
        open_slide(tmp_path / "a.dzi")
    assert time.perf_counter() - started < 1


def test_a_directory_s_tiles_are_not_its_slides(tmp_path, pixels):
    save(tmp_path / "a.dzi", pixels)
    assert find_files([tmp_path]) == [tmp_path / "a.dzi"]
