"""Which images a set holds, and the resolutions at which two sets are compared."""

import numpy as np
import pytest
import tifffile
from helpers.slides import save_slide, tissue_like

from largegen.embeddings.file import write_embeddings
from largegen.embeddings.settings import EmbeddingSettings
from largegen.errors import InputError, SlideError
from largegen.images.write import write_image
from largegen.metrics.sets.images import find_images, resolution_groups
from largegen.slides.image_info import ImageInfo
from largegen.slides.resolution import Resolution, Scale
from largegen.slides.slide import open_slide

AT_20X = Resolution(mag=20)
UNKNOWN = Resolution()


def plain(path, side=64, seed=0):
    """An image that says nothing of its resolution."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return save_slide(path, np.random.default_rng(seed).integers(0, 255, (side, side, 3)).astype(np.uint8))


def ours(path, side=64, **resolution):
    pixels = np.random.default_rng(0).integers(0, 255, (side, side, 3)).astype(np.uint8)
    write_image(path, [(0, pixels)], ImageInfo(side, side, **resolution))
    return path


def one_line(error, path):
    return str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_directories_are_searched_below_files_taken_as_given(tmp_path):
    for name in ("b/2.png", "b/1.jpg", "a.PNG", ".hidden/3.png", ".4.png", "b/notes.txt", "c/1.dcm", "c/2.dcm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    ours(tmp_path / "deep.dzi")
    odd = tmp_path / "odd.name"
    odd.write_bytes(b"x")
    found = find_images([odd, tmp_path, tmp_path / "a.PNG"])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        *("odd.name", "a.PNG", "b/1.jpg", "b/2.png", "c/1.dcm", "deep.dzi"),
    ]


def test_a_folder_named_like_tiles_is_searched_where_no_dzi_says_so(tmp_path):
    plain(tmp_path / "my_files" / "1.png")
    assert find_images([tmp_path]) == [tmp_path / "my_files" / "1.png"]


def test_nothing_to_compare_is_one_line(tmp_path):
    (tmp_path / "none").mkdir()
    for path, reason in ((tmp_path / "none", "no images in this directory"), (tmp_path / "gone.png", "no such file")):
        with pytest.raises(InputError, match=reason) as error:
            find_images([path])
        assert one_line(error, path)
    with pytest.raises(InputError, match="no images given"):
        find_images([])


def test_an_embedding_file_stands_for_its_slide(tmp_path):
    slide_path = save_slide(tmp_path / "slide.tif", tissue_like(600, 500), mpp=0.5)
    size = slide_path.stat().st_size
    settings = EmbeddingSettings(
        **{"source_name": "slide", "source_path": str(slide_path), "source_kind": "slide", "source_bytes": size},
        **{"source_width": 600, "source_height": 500, "source_background": (243,) * 3, "mpp": 0.5, "gsd_m": None},
        **{"crs": None, "transform": None, "downsample": 1.0, "tile_px": 256, "overlap_px": 0, "region": (0, 0, 1, 2)},
        **{"tissue_filter": "otsu", "encoder": "tiny", "encoder_fingerprint": "", "encoder_licence": "CC0-1.0"},
        **{"dim": 4, "precision": "float32"},
    )
    file = tmp_path / "slide.h5"
    write_embeddings(file, settings, np.zeros((1, 2)), np.zeros((1, 4)), np.zeros(4), {})
    assert find_images([file]) == [slide_path]
    (tmp_path / "moved").mkdir()
    slide_path.rename(tmp_path / "moved" / "slide.tif")
    with pytest.raises(InputError, match=r"its slide .*slide\.tif is not there") as error:
        find_images([file])
    assert one_line(error, file)
    moved = file.rename(tmp_path / "moved" / "slide.h5")
    assert find_images([moved]) == [tmp_path / "moved" / "slide.tif"]


def test_fakes_of_several_resolutions_make_several_levels(tmp_path):
    slide = save_slide(tmp_path / "real.svs", tissue_like(1200, 900), mpp=0.25)
    fakes = [ours(tmp_path / f"{k}.png", mpp=0.499 * 2**k) for k in (4, 0, 5, 2)]
    fakes.append(ours(tmp_path / "same.tif", mpp=0.503))
    levels = resolution_groups([slide], fakes)
    assert [level.name for level in levels] == ["20x", "5x", "1.25x", "0.625x"]
    assert [len(level.fake) for level in levels] == [2, 1, 1, 1]
    assert all(image.downsample == 1 for level in levels for image in level.fake)
    assert [level.real[0].downsample for level in levels] == pytest.approx([0.499 * 2**k / 0.25 for k in (0, 2, 4, 5)])
    assert (levels[0].real[0].width, levels[0].real[0].height) == (601, 450)


def test_a_slide_of_nearly_the_same_resolution_is_read_as_it_is(tmp_path):
    slide = save_slide(tmp_path / "real.svs", tissue_like(700, 600), mpp=0.499)
    level = resolution_groups([slide], [ours(tmp_path / "a.png", mpp=0.5)])[0]
    assert (level.name, level.real[0].downsample, level.real[0].width) == ("20x", 1.0, 700)


def test_a_slide_of_which_only_the_objective_is_known_is_compared_by_it(tmp_path):
    about = "Aperio Image Library v11\n64x64|AppMag = 40"
    options = {"photometric": "rgb", "tile": (32, 32), "metadata": None}
    tifffile.imwrite(tmp_path / "a.svs", tissue_like(64, 64), description=about, **options)
    (level,) = resolution_groups([tmp_path / "a.svs"], [ours(tmp_path / "b.png", mpp=0.25)])
    assert (level.name, level.real[0].downsample, level.fake[0].downsample) == ("40x", 1.0, 1.0)


def test_scenes_are_compared_in_metres(tmp_path, scene_path):
    (level,) = resolution_groups([scene_path], [ours(tmp_path / "a.png", gsd_m=10.0)])
    assert (level.name, level.real[0].downsample, level.fake[0].downsample) == ("10 m/px", 2.0, 1.0)
    assert level.real[0].tissue and not level.fake[0].tissue


def test_where_no_resolution_is_known_pixels_are_compared(tmp_path):
    (level,) = resolution_groups([plain(tmp_path / "a.png")], [plain(tmp_path / "b.jpg")])
    assert level.name == "pixels"
    assert [image.downsample for image in level.real + level.fake] == [1.0, 1.0]


def test_a_target_is_what_both_are_read_at(tmp_path):
    slide = save_slide(tmp_path / "real.svs", tissue_like(1200, 900), mpp=0.25)
    fakes = [ours(tmp_path / "a.png", 300, mpp=0.5), ours(tmp_path / "b.png", 300, mpp=1.0)]
    (level,) = resolution_groups([slide], fakes, Resolution(mag=10))
    assert level.name == "10x"
    assert [image.downsample for image in level.real + level.fake] == [4.0, 2.0, 1.0]
    with pytest.raises(InputError, match=r"has 1 um/px \(10x\), too coarse for 0\.5 um/px \(20x\)") as error:
        resolution_groups([slide], fakes, AT_20X)
    assert one_line(error, fakes[1])
    with pytest.raises(InputError, match=r"cannot be read at `gsd` 1; use `mag` or `mpp`"):
        resolution_groups([slide], fakes, Resolution(gsd=1.0))
    for bad in (Resolution(mpp=-1), Resolution(mag=20, gsd=1)):
        with pytest.raises(InputError, match="`m"):
            resolution_groups([slide], fakes, bad)


def test_real_images_are_not_enlarged(tmp_path):
    real = save_slide(tmp_path / "real.svs", tissue_like(700, 600), mpp=1.0)
    with pytest.raises(InputError, match=r"has 1 um/px \(10x\), too coarse .*`mpp` 1 or coarser.*finer real") as error:
        resolution_groups([real], [ours(tmp_path / "a.png", mpp=0.5)])
    assert one_line(error, real)


def test_a_resolution_known_on_one_side_only_names_the_flag_that_helps(tmp_path, scene_path):
    real, unknown = save_slide(tmp_path / "real.svs", tissue_like(700, 600), mpp=0.5), plain(tmp_path / "a.png")
    fake = ours(tmp_path / "b.png", mpp=0.5)
    cases = (
        ([real], [unknown], UNKNOWN, "`fake_mag` or `fake_mpp`"),
        ([unknown], [fake], UNKNOWN, "`real_mag` or `real_mpp`"),
        ([scene_path], [unknown], UNKNOWN, "`fake_gsd`"),
        ([real], [fake, unknown], UNKNOWN, "`fake_mag` or `fake_mpp`"),
        ([unknown], [unknown], AT_20X, "`real_mag` or `real_mpp`"),
    )
    for reals, fakes, target, flag in cases:
        with pytest.raises(InputError, match=f"no resolution in its metadata.*give {flag}") as error:
            resolution_groups(reals, fakes, target)
        assert one_line(error, unknown)
    (level,) = resolution_groups([real], [unknown], sources=(UNKNOWN, AT_20X))
    assert (level.name, level.fake[0].source) == ("20x", AT_20X)
    assert level.fake[0].open().mpp == 0.5


def test_scenes_and_slides_are_not_compared(tmp_path, scene_path):
    slide = ours(tmp_path / "a.png", mpp=0.5)
    for real, fake in (([scene_path], [slide]), ([slide], [scene_path]), ([slide, scene_path], [slide])):
        with pytest.raises(InputError, match="slides and scenes cannot be compared"):
            resolution_groups(real, fake)


def test_what_was_stored_as_jpeg_is_lossy(tmp_path):
    pixels = tissue_like(300, 300)
    lossless = [
        *(save_slide(tmp_path / "a.tif", pixels, compression="deflate"), plain(tmp_path / "a.png")),
        save_slide(tmp_path / "b.tif", pixels, compression="none", pyramid=False),
    ]
    lossy = [save_slide(tmp_path / "c.tif", pixels), plain(tmp_path / "c.jpg"), ours(tmp_path / "d.dzi")]
    (level,) = resolution_groups(lossless, lossy, sources=(AT_20X, AT_20X))
    assert not any(image.lossy for image in level.real)
    assert all(image.lossy for image in level.fake)


def test_crops_come_from_tissue_on_both_sides_or_on_neither(tmp_path):
    slide = save_slide(tmp_path / "a.tif", tissue_like(600, 500), mpp=0.5)
    cut_out = plain(tmp_path / "d.png")
    fakes = [ours(tmp_path / "b.tif", mpp=0.5), ours(tmp_path / "c.dzi", mpp=0.5)]

    def tissue(reals, **options):
        (level,) = resolution_groups(reals, fakes, sources=(AT_20X, UNKNOWN), **options)
        return {image.tissue for image in level.real}, {image.tissue for image in level.fake}

    assert tissue([slide]) == ({True}, {True})
    assert tissue([cut_out]) == ({False}, {False})
    assert tissue([slide, cut_out]) == ({True, False}, {True})
    assert tissue([slide], tissue=False) == ({False}, {False})
    assert tissue([], tissue=True) == (set(), {True})  # as saved statistics say


def test_a_damaged_image_is_named_or_left_out(tmp_path):
    good = [plain(tmp_path / f"{n}.png", seed=n) for n in range(5)]
    bad = tmp_path / "2.png"
    bad.write_bytes(b"not an image")
    with pytest.raises(SlideError) as error:
        resolution_groups(good, good[:1])
    assert one_line(error, bad)
    failed = []
    (level,) = resolution_groups(good, good[:1], failed=failed)
    assert [image.path.name for image in level.real] == ["0.png", "1.png", "3.png", "4.png"]
    assert [path for path, _ in failed] == [bad] and str(bad) in failed[0][1]
    with pytest.raises(InputError, match=r"no image of the fake set can be read: .*2\.png"):
        resolution_groups(good[:1], [bad], failed=[])


def test_only_headers_are_read(tmp_path):
    path = plain(tmp_path / "a.png", 256)
    path.write_bytes(path.read_bytes()[:5000])
    (level,) = resolution_groups([path], [path])
    assert level.real[0].width == 256
    with pytest.raises(SlideError, match="truncated"):
        open_slide(path)


@pytest.mark.parametrize(
    "scale, name",
    [
        (Scale("um", 0.499), "20x"),
        (Scale("um", 0.2465), "40.6x"),
        (Scale("um", 0.1), "100x"),
        (Scale("um", 8.0), "1.25x"),
        (Scale("um", 64.0), "0.15625x"),
        (Scale("m", 0.6), "0.6 m/px"),
        (Scale("px", 1.0), "pixels"),
    ],
)
def test_levels_are_named_as_people_call_them(scale, name):
    assert scale.level_name == name
