"""TIFF as it is in the world: read rightly, or refused with the true reason."""

import logging

import numpy as np
import pytest
import rasterio
import tifffile
from helpers.slides import save_slide, save_tiff, tissue_like
from PIL import Image

from largegen.embeddings.embed import EmbedOptions, plan_tiles
from largegen.errors import SlideError
from largegen.slides.slide import open_slide

TILED = {"tile": (256, 256)}
OME = (
    '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image>'
    '<Pixels DimensionOrder="XYCZT" Type="{type}" SizeX="640" SizeY="512" SizeC="{count}" SizeZ="{planes}" SizeT="1"'
    " {more}>{channels}<TiffData/></Pixels></Image></OME>"
)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """(512, 640, 3) uint8."""
    return tissue_like(640, 512)


@pytest.fixture
def save(tmp_path):
    def write(data, name="a.tif", **options):
        return save_tiff(tmp_path / name, data, **TILED | options)

    return write


def read(path) -> np.ndarray:
    with open_slide(path) as slide:
        return slide.read(0, 0, slide.width, slide.height)


def ome(count, channels="", kind="uint8", more="", planes=1) -> str:
    return OME.format(count=count, channels=channels, type=kind, more=more, planes=planes)


def refused(path) -> str:
    with pytest.raises(SlideError) as error:
        open_slide(path)
    assert "truncated" not in str(error.value) and "damaged" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("name", ["a.ome.tif", "a.btf", "a.svs"])
def test_big_endian_bigtiff(save, pixels, dtype, name):
    data = pixels.astype(f">{dtype}") * (257 if dtype == "u2" else 1)
    assert np.array_equal(read(save(data, name, byteorder=">", bigtiff=True)), pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("options", [TILED, {"tile": None}, {**TILED, "compression": "zlib"}])
def test_bands_in_planes_of_their_own(save, pixels, dtype, options):
    data = pixels.transpose(2, 0, 1).astype(dtype) * (257 if dtype == np.uint16 else 1)
    assert np.array_equal(read(save(data, planarconfig="separate", **options)), pixels)


@pytest.mark.parametrize(("bits", "dtype"), [(4, "uint8"), (10, "uint16"), (12, "uint16"), (14, "uint16")])
def test_samples_packed_to_odd_bits(tmp_path, pixels, bits, dtype):
    stored = (pixels.astype(np.uint16) * 257 >> (16 - bits)).astype(dtype)
    size = {"width": 640, "height": 512, "count": 3, "dtype": dtype}
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", nbits=bits, tiled=True, photometric="RGB", **size) as f:
        f.write(stored.transpose(2, 0, 1))
    assert np.abs(read(tmp_path / "a.tif") - np.rint(stored * (255 / (2**bits - 1)))).max() <= 1


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("said", ["OME", "MaxSampleValue", "nothing"])
def test_few_bits_in_sixteen_are_not_nearly_black(save, pixels, bits, said, caplog):
    data = (pixels.astype(np.uint16) * 257 >> (16 - bits)).astype(np.uint16)
    options = {}
    if said == "OME":
        options["description"] = ome(3, '<Channel SamplesPerPixel="3"/>', "uint16", f'SignificantBits="{bits}"')
    elif said == "MaxSampleValue":
        options["extratags"] = [(281, "H", 3, (2**bits - 1,) * 3, True)]
    with caplog.at_level(logging.INFO):
        assert np.abs(read(save(data, **options)) - pixels.astype(int)).max() <= 1
    assert ("taken for" in caplog.text) == (said == "nothing")


@pytest.mark.parametrize("where", [(1, 1), (0, 0)])
@pytest.mark.parametrize("offset", [0, None])
def test_a_tile_of_no_bytes_is_empty_glass(tmp_path, pixels, where, offset):
    path = save_slide(tmp_path / "a.svs", pixels, 0.5)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        page = tiff.pages[0]
        index = where[0] * 3 + where[1]
        for name, value in (("TileByteCounts", 0), ("TileOffsets", offset)):
            if value is not None:
                values = list(page.tags[name].value)
                values[index] = value
                page.tags[name].overwrite(values)
    slide = open_slide(path)
    top, left = where[0] * 256, where[1] * 256
    found = slide.read(0, 0, 640, 512)
    whole = np.ones(found.shape[:2], bool)
    whole[top : top + 256, left : left + 256] = False
    assert (found[~whole] == 255).all()
    assert np.abs(found[whole] - pixels[whole].astype(int)).mean() < 4
    _, keep = plan_tiles(slide, 1.0, EmbedOptions(tile_px=256))
    assert not keep[where]


@pytest.mark.parametrize("extra", ["unspecified", "unassalpha", "assocalpha"])
@pytest.mark.parametrize(("scale", "planar"), [(1, "contig"), (257, "contig"), (1, "separate"), (257, "separate")])
def test_a_fourth_band_is_opacity_only_where_the_file_says_so(save, pixels, extra, scale, planar):
    opacity = np.full((512, 640), 255, np.uint8)
    opacity[:, :320] = 51
    colours = (pixels * 0.2).astype(np.uint8) if extra == "assocalpha" else pixels
    colours = np.where(opacity[..., None] == 51, colours, pixels)
    data = np.dstack([colours, opacity]).astype(np.uint16 if scale > 1 else np.uint8) * scale
    data = data if planar == "contig" else data.transpose(2, 0, 1)
    found = read(save(data, extrasamples=[extra], planarconfig=planar))
    expected = pixels.astype(float)
    if extra != "unspecified":
        expected[:, :320] = pixels[:, :320] * 0.2 + 255 * 0.8
    assert np.abs(found - expected).max() <= 3  # of a fifth of 8 bits


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("count", [2, 4, 5, 7])
def test_channels_that_are_no_colours_are_refused(save, pixels, planar, count):
    data = np.dstack([pixels] * 3)[..., :count]
    data = data if planar == "contig" else data.transpose(2, 0, 1)
    error = refused(save(data, photometric="minisblack", planarconfig=planar))
    assert f"{count} channels, which are no red, green and blue" in error and "tissue" not in error


def test_further_bands_of_an_rgb_image_are_left_out_with_a_word(save, pixels, caplog):
    with caplog.at_level(logging.INFO):
        assert np.array_equal(read(save(np.dstack([pixels, pixels[..., :2]]))), pixels)
    assert "2 further bands, by the file no opacity, are left out" in caplog.text


CHANNELS = {
    "nameless": ["", "", ""],
    "named": ['Name="Red"', 'Name="Green"', 'Name="Blue"'],
    "coloured": ['Color="-16776961"', 'Color="16711935"', 'Color="65535"'],
}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0]])
@pytest.mark.parametrize("how", CHANNELS)
def test_a_page_for_each_channel(save, pixels, dtype, order, how):
    if how == "nameless" and order != [0, 1, 2]:
        pytest.skip("nothing says the order")
    channels = "".join(f'<Channel SamplesPerPixel="1" {CHANNELS[how][i]}/>' for i in order)
    data = pixels.transpose(2, 0, 1)[order].astype(dtype) * (257 if dtype == np.uint16 else 1)
    path = save(data, "a.ome.tif", photometric="minisblack", description=ome(3, channels, data.dtype.name))
    assert np.array_equal(read(path), pixels)


def test_a_page_for_each_channel_with_levels(tmp_path, pixels, caplog):
    caplog.set_level(logging.INFO)
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tiff:
        planes = pixels.transpose(2, 0, 1)
        options = {**TILED, "photometric": "minisblack"}
        tiff.write(planes, subifds=1, metadata={"axes": "CYX"}, **options)
        tiff.write(planes[:, ::2, ::2], subfiletype=1, **options)
    slide = open_slide(tmp_path / "a.ome.tif")
    assert slide.levels == [(640, 512), (320, 256)]
    assert np.array_equal(slide.read(0, 0, 320, 256, 2), pixels[::2, ::2])
    assert not caplog.messages  # nothing is left out


def test_fluorescence_in_pages_is_refused_by_its_names(save, pixels):
    channels = "".join(f'<Channel SamplesPerPixel="1" Name="{name}"/>' for name in ("DAPI", "FITC", "Cy3"))
    planes = pixels.transpose(2, 0, 1)
    assert "3 channels (DAPI, FITC, Cy3)" in refused(
        save(planes, "a.ome.tif", photometric="minisblack", description=ome(3, channels))
    )
    assert "3 pages of one channel each" in refused(save(planes, photometric="minisblack"))
    two = save(planes[:2], "b.ome.tif", photometric="minisblack", description=ome(2))
    assert "2 channels" in refused(two)


def test_an_imagej_composite_of_three_channels(tmp_path, pixels):
    tifffile.imwrite(tmp_path / "a.tif", pixels.transpose(2, 0, 1), imagej=True, metadata={"axes": "CYX"})
    assert np.array_equal(read(tmp_path / "a.tif"), pixels)


def test_of_several_planes_the_first_is_read_with_a_word(save, pixels, caplog):
    with caplog.at_level(logging.INFO):
        assert np.array_equal(read(save(np.stack([pixels, pixels // 2]))), pixels)
    assert "2 images of this size; the first is read" in caplog.text


@pytest.mark.parametrize("photometric", ["cielab", "icclab"])
def test_lab_colours_are_named_as_the_reason(save, pixels, photometric):
    assert f"its colours are {photometric.upper()}, which cannot be read" in refused(
        save(pixels, photometric=photometric)
    )


def test_what_is_white_at_zero(save, pixels):
    for data in (255 - pixels[..., 0], 65535 - pixels[..., 0].astype(np.uint16) * 257):
        assert np.array_equal(read(save(data, photometric="miniswhite"))[..., 0], pixels[..., 0])


@pytest.mark.parametrize("flag", [0, 1])
@pytest.mark.parametrize("subifd", [False, True])
def test_a_page_of_something_else_is_no_level(tmp_path, pixels, flag, subifd, caplog):
    other = pixels[::-2, ::-2].copy()
    other[:128] = (30, 80, 40)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        options = {**TILED, "photometric": "rgb", "metadata": None}
        tiff.write(pixels, subifds=2 if subifd else 0, **options)
        tiff.write(other, subfiletype=0 if subifd else flag, description="macro", **options)
        tiff.write(pixels[::4, ::4], subfiletype=1, **options)
    with caplog.at_level(logging.INFO):
        slide = open_slide(tmp_path / "a.tif")
    assert slide.levels == [(640, 512), (160, 128)]
    assert "320x256 px shows something else" in caplog.text


@pytest.mark.parametrize("step", [2, 3, 8])
def test_true_levels_are_kept_whatever_the_filter(tmp_path, pixels, step):
    averaged = np.asarray(Image.fromarray(pixels).resize((640 // step, 512 // step), Image.Resampling.BOX))
    for name, level in (("a", pixels[::step, ::step]), ("b", averaged)):
        with tifffile.TiffWriter(tmp_path / f"{name}.tif") as tiff:
            for part in (pixels, level):
                tiff.write(part, photometric="rgb", metadata=None, **TILED)
        assert len(open_slide(tmp_path / f"{name}.tif").levels) == 2


def test_a_mask_page_is_no_level(tmp_path, pixels):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(pixels, photometric="rgb", metadata=None, **TILED)
        tiff.write(np.ones((256, 320), bool), photometric="mask", subfiletype=4, metadata=None, **TILED)
    assert open_slide(tmp_path / "a.tif").levels == [(640, 512)]


@pytest.mark.parametrize("thumbnail", [{}, {"tile": (16, 16)}])
def test_a_thumbnail_before_the_slide_is_not_the_slide(tmp_path, pixels, caplog, thumbnail):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(
            pixels[::8, ::8], photometric="rgb", resolution=(2500, 2500), resolutionunit="CENTIMETER", **thumbnail
        )
        tiff.write(pixels, photometric="rgb", resolution=(20000, 20000), resolutionunit="CENTIMETER", **TILED)
        tiff.write(pixels[::2, ::2], photometric="rgb", **TILED)
    with caplog.at_level(logging.INFO), open_slide(tmp_path / "a.tif") as slide:
        assert (slide.width, slide.height, slide.mpp) == (640, 512, 0.5)
        assert np.array_equal(slide.read(0, 0, 640, 512), pixels)
        assert (320, 256) in slide.levels
    assert "its first page, of 80x64 px, is a thumbnail; page 2, of 640x512 px, is read" in caplog.text


def test_a_larger_page_of_another_shape_is_spoken_of(tmp_path, pixels, caplog):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(pixels[:64, :64], photometric="rgb")
        tiff.write(pixels, photometric="rgb")
    with caplog.at_level(logging.INFO):
        assert np.array_equal(read(tmp_path / "a.tif"), pixels[:64, :64])
    assert "its first page, of 64x64 px, is read; page 2, of 640x512 px, shows something else" in caplog.text


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"<!DOCTYPE html><html>", "a web page: the download failed"),
        (b"\x1f\x8b\x08", "a compressed file; unpack it"),
        (b"\x89PNG\r\n\x1a\nbroken", "a truncated or damaged PNG"),
        (b"\xff\xd8\xff\xe0broken", "a truncated or damaged JPEG"),
    ],
)
def test_what_stands_in_the_place_of_a_slide_is_named(tmp_path, start, reason):
    (tmp_path / "a.png").write_bytes(start)
    with pytest.raises(SlideError, match=reason):
        open_slide(tmp_path / "a.png")
