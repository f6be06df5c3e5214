"""Generated images and the real ones that they were made after: found, named, compared tile by tile; and guides."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.models import flat_grid, save_encoder, save_model
from helpers.slides import save_slide, tissue_like
from PIL import Image

from largegen import load_model
from largegen.conditioning.area import ImageArea
from largegen.errors import InputError
from largegen.images.generate_file import generate_file
from largegen.images.write import write_image
from largegen.images.zoom_file import zoom_file
from largegen.metrics.per_image.guide import guide_of, guide_psnr_of_file
from largegen.metrics.per_image.similarity import PairTiles, embed_pairs, retrieval, similarity
from largegen.metrics.sets.pairs import Pair, find_pairs, given_pairs
from largegen.models.encoder import load_encoder
from largegen.sampling.settings import Sampling, Zooming
from largegen.slides import bands
from largegen.slides.image_info import ImageInfo, read_provenance
from largegen.slides.slide import open_slide

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return load_encoder(f"local-dir:{save_encoder(tmp_path_factory.mktemp('encoder') / 'e')}", device="cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return load_model(save_model(folder / "model", save_encoder(folder / "encoder"), levels=4), "cpu", "fp32")


def pairs_of(fakes, reals):
    return find_pairs({path: open_slide(path).provenance for path in fakes}, reals)


@pytest.fixture
def fake(tmp_path):
    """Write an image that says it was made after `slide`, at 128,64."""

    def write(name="a.png", size=(256, 192), mpp=1.0, **record):
        record = {"reference": "slide", "reference_xy": [128, 64], "reference_downsample": 2.0} | record
        record = {key: value for key, value in record.items() if value is not None}
        pixels = RNG.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        write_image(tmp_path / name, [(0, pixels)], ImageInfo(*size, mpp=mpp, provenance=record))
        return tmp_path / name

    return write


def test_the_provenance_names_the_real_image_and_the_place(fake, slide_path):
    path = fake()
    assert pairs_of([path], [slide_path]) == ([Pair(path, slide_path, (128, 64), 2.0, 256, 192)], [])


def test_what_generate_writes_is_found(model, tmp_path, make_slide):
    grid = flat_grid(model, 3, 4)  # after `source`, 2 px of its 0.25 um each per px, from 256,128
    generate_file(model, grid, ImageArea(256, 192, 0, 0, 3, 4, full=False), tmp_path / "a.tif", Sampling(steps=1))
    real = make_slide(900, 700, mpp=0.25, name="source.tif")
    assert pairs_of([tmp_path / "a.tif"], [real]) == ([Pair(tmp_path / "a.tif", real, (256, 128), 2.0, 256, 192)], [])


def test_a_level_of_zooms_lies_at_the_same_place_coarser(fake, slide_path):
    path = fake(size=(64, 48), mpp=4.0, level=2)
    assert pairs_of([path], [slide_path])[0] == [Pair(path, slide_path, (128, 64), 8.0, 64, 48)]


def test_without_a_recorded_scale_it_follows_from_the_resolutions(fake, slide_path):
    path = fake(reference_downsample=None)
    assert pairs_of([path], [slide_path])[0][0].scale == pytest.approx(2.0, rel=1e-3)


def test_what_goes_on_past_the_real_image_is_left_out(fake, slide_path):
    found, _ = pairs_of([fake(reference_xy=[1100, 900])], [slide_path])  # of 1300 x 1000
    assert (found[0].width, found[0].height) == (100, 50)


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({"reference": "other"}, "made after other: none of the real images have that name"),
        ({"reference_xy": None}, "a sheet of patches"),
        ({"reference_xy": [1300, 0]}, "begins at 1300,0, outside"),
        ({"reference_downsample": None, "mpp": None}, "does not say at what resolution"),
        ({"reference_downsample": 4.0}, "another file, or one that needs `real_mpp`"),
    ],
)
def test_images_without_a_pair_are_left_out_with_a_reason(fake, slide_path, record, why):
    path, whole = fake("a.png", **record), fake("b.png")
    pairs, left_out = pairs_of([path, whole], [slide_path])
    assert [pair.fake for pair in pairs] == [whole]
    assert len(left_out) == 1 and left_out[0].startswith(f"{path}: ") and why in left_out[0]


def test_other_tools_images_and_names_that_are_not_unique(fake, slide_path, make_slide):
    twin = make_slide(1300, 1000)
    assert "2 of the real images have that name" in pairs_of([fake()], [slide_path, twin])[1][0]
    assert "in a `pairs` file" in pairs_of([twin], [slide_path])[1][0]


@pytest.fixture
def table(tmp_path, slide_path):
    """Write a --pairs file, beside an image of 300x200 px without resolution."""
    Image.fromarray(tissue_like(300, 200)).save(tmp_path / "a.png")
    Image.fromarray(tissue_like(300, 200)).save(tmp_path / "b.png")
    (tmp_path / "slide.tif").symlink_to(slide_path)

    def write(*lines):
        (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
        return tmp_path / "pairs.csv"

    return write


def test_a_table_names_pairs_beside_it(table, tmp_path):
    a, b, slide = (tmp_path / name for name in ("a.png", "b.png", "slide.tif"))
    assert given_pairs(table("generated,real", "a.png,b.png")) == [Pair(a, b, (0, 0), 1.0, 300, 200)]
    path = table("generated,real,x,y,scale", "a.png,slide.tif,100,50,2", "", f"{b},{slide},0,0,1.5")
    assert given_pairs(path) == [Pair(a, slide, (100, 50), 2.0, 300, 200), Pair(b, slide, (0, 0), 1.5, 300, 200)]


def test_the_scale_follows_from_resolutions_where_both_are_known(table, tmp_path):
    save_slide(tmp_path / "c.tif", tissue_like(300, 200), mpp=1.0)
    assert given_pairs(table("generated,real,x,y", "c.tif,slide.tif,9,8"))[0].scale == pytest.approx(2, rel=1e-3)
    given = given_pairs(table("generated,real,x,y", "a.png,slide.tif,9,8"), fake_source=(0.75, None, None))
    assert given[0].scale == pytest.approx(1.5, rel=1e-3)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["fake,real", "a.png,b.png"], "its first line must be generated,real"),
        (["generated,real,x", "a.png,b.png,1"], "its first line must be"),
        (["generated,real"], "names no pair"),
        (["generated,real", "a.png,b.png", "a.png,c.png"], "line 3: .*c.png: cannot be opened"),
        (["generated,real", "a.png"], "line 2: must have 2 values"),
        (["generated,real", "a.png,b.png,1,2"], "line 2: must have 2 values"),
        (["generated,real,x,y", "a.png,b.png,1.5,0"], "line 2: x 1.5: must be a whole number"),
        (["generated,real,x,y", "a.png,b.png,-1,0"], "line 2: x -1: must be a whole number"),
        (["generated,real,x,y", "a.png,b.png,1,"], "line 2: give both x and y"),
        (["generated,real,x,y,scale", "a.png,b.png,1,1,0"], "line 2: scale 0: must be a number over 0"),
        (["generated,real", "a.png,slide.tif"], "line 2: .* not both known; add a column scale"),
        (["generated,real,x,y,scale", "a.png,slide.tif,,,1"], "line 2: .*covers 300x200 px of 1300x1000; give x and y"),
        (["generated,real,x,y", "a.png,b.png,300,0"], "line 2: begins at 300,0, outside"),
    ],
)
def test_a_table_that_cannot_be(table, lines, why):
    with pytest.raises(InputError, match=why):
        given_pairs(table(*lines))


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"pairs\.csv: cannot be read: .*No such file"):
        given_pairs(tmp_path / "pairs.csv")


@pytest.fixture
def scaled(tmp_path):
    """A real image twice as fine as the generated one, which is the same from 64,32 on, and their pair."""
    pixels = RNG.integers(0, 256, (10, 14, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    Image.fromarray(pixels).save(tmp_path / "real.png")
    Image.fromarray(pixels[32::2, 64::2]).save(tmp_path / "fake.png")
    return Pair(tmp_path / "fake.png", tmp_path / "real.png", (64, 32), 2.0, 80, 64)


@pytest.mark.parametrize("workers", [1, 3])
def test_tiles_come_in_order_with_the_real_ones_of_their_places(scaled, workers):
    tiles = PairTiles([scaled, replace(scaled, width=40)], size_px=32, tissue=False)
    first = [[0, 0, 0], [0, 32, 0], [0, 0, 32], [0, 32, 32]]
    assert tiles.places.tolist() == [*first, [1, 0, 0], [1, 0, 32]] and len(tiles) == 6
    indices, real, fake = zip(*tiles.batches(3, workers), strict=True)
    assert [part.tolist() for part in indices] == [[0, 1, 2], [3], [4, 5]]  # a batch is of one pair
    pixels = np.asarray(Image.open(scaled.fake))
    assert np.array_equal(fake[1][0], pixels[32:64, 32:64]) and np.array_equal(fake[2][1], pixels[32:64, :32])
    for one, other in zip(real, fake, strict=True):
        assert one.shape == other.shape and one.dtype == np.uint8
        assert np.abs(one.astype(int) - other).mean() < 12  # but for the filter at the edges of flat squares
        assert np.abs(one.astype(int) - other[:, ::-1]).mean() > 40


def test_processes_share_the_tiles(scaled):
    tiles = PairTiles([scaled] * 3, size_px=32, tissue=False)
    shares = [np.concatenate([part for part, *_ in tiles.batches(2, share=(n, 5))]) for n in range(5)]
    assert np.array_equal(np.concatenate(shares), np.arange(12)) and min(map(len, shares)) == 2
    assert not list(PairTiles([scaled], size_px=128).batches(2, share=(0, 2)))


def test_only_tiles_on_tissue(slide_path):
    pair = Pair(slide_path, slide_path, (0, 0), 1.0, 1300, 1000)
    everywhere, tissue = PairTiles([pair], 100, tissue=False), PairTiles([pair], 100)
    assert len(everywhere) == 130 and 50 < len(tissue) < 110
    with open_slide(slide_path) as slide:
        for _, x, y in tissue.places:
            assert slide.read(x, y, 100, 100).std() > 5
    half = PairTiles([replace(pair, real_xy=(500, 400), width=800, height=600)], 100)
    assert {(x + 500, y + 400) for _, x, y in half.places} <= {(x, y) for _, x, y in tissue.places}


def test_identical_images_are_similar_to_one_and_find_their_own(slide_path, encoder):
    tiles = PairTiles([Pair(slide_path, slide_path, (0, 0), 1.0, 1300, 1000)], 128)
    found = similarity(*embed_pairs(tiles.batches(8), encoder), tiles.places[:, 0])
    assert np.abs(found.values - 1).max() < 1e-6 and found.mean == pytest.approx(1, abs=1e-6)
    assert found.retrieved == len(tiles) and found.baseline < 0.9999


def test_similarity_is_the_mean_cosine_and_the_baseline_that_of_other_places():
    real, fake = RNG.normal(size=(7, 5)), RNG.normal(size=(7, 5))
    pair = np.array([0, 0, 0, 0, 2, 2, 5])
    found = similarity(real, fake, pair)

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    values = [cosine(a, b) for a, b in zip(real, fake, strict=True)]
    assert np.allclose(found.values, values) and found.mean == pytest.approx(np.mean(values))
    assert found.standard_error == pytest.approx(np.std(values, ddof=1) / np.sqrt(7))
    others = [np.mean([cosine(real[i], real[j]) for j in range(7) if j != i and pair[j] == pair[i]]) for i in range(6)]
    assert found.baseline == pytest.approx(np.mean(others))  # the seventh is alone in its image
    assert similarity(real[:1], fake[:1], pair[:1]).standard_error is None
    assert similarity(real[:1], fake[:1], pair[:1]).baseline is None


def test_retrieval_counts_the_tiles_that_find_their_own():
    real = RNG.normal(size=(16, 32))
    assert retrieval(real * 5 + 0.01, real) == 16  # length does not count
    swapped = real[[1, 0, *range(2, 16)]]
    assert retrieval(swapped, real) == 14
    assert retrieval(np.roll(real, 1, axis=0), real) == 0
    assert similarity(real, swapped, np.arange(16) // 2).retrieved == 14
    assert similarity(real, swapped, np.arange(16)).retrieved == 16  # alone, each is its own nearest


@pytest.mark.parametrize(("rows", "why"), [(0, "no tile"), (1, "zero or not finite")])
def test_nothing_to_compare(rows, why):
    with pytest.raises(InputError, match=why):
        similarity(np.zeros((rows, 4)), np.ones((rows, 4)), np.zeros(rows))


@pytest.mark.parametrize(("name", "tolerance"), [("a.png", 0.005), ("a.ome.tif", 0.05)])
def test_the_files_of_zoom_tell_the_psnr_that_it_reports(model, tmp_path, monkeypatch, name, tolerance):
    monkeypatch.setattr(bands, "BAND_PX", 512 * 37)
    region = ImageArea(512, 512, 0, 0, 8, 8, full=False)
    report = zoom_file(model, flat_grid(model, 8, 8), region, tmp_path / name, Sampling(steps=2), Zooming())
    guide = guide_of(tmp_path / name, read_provenance(tmp_path / name))
    assert guide == tmp_path / "a_guide.png"
    assert guide_psnr_of_file(tmp_path / name, guide) == pytest.approx(report["guide_psnr"], abs=tolerance + 0.005)
    assert guide_of(guide, read_provenance(guide)) is None
    guide.unlink()
    assert guide_of(tmp_path / name, read_provenance(tmp_path / name)) is None


def test_a_guide_of_another_image(tmp_path):
    for name, size in (("a.png", (512, 256)), ("guide.png", (64, 64))):
        Image.new("RGB", size).save(tmp_path / name)
    with pytest.raises(InputError, match=r"64x64 px, no guide of .*a\.png, 512x256 px"):
        guide_psnr_of_file(tmp_path / "a.png", tmp_path / "guide.png")
