"""Embedding files of other projects: each format comes to the grid it means, and bad ones are one line."""

import collections
import io
import json
import pickle
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from helpers.models import WIDTH, save_encoder, save_model

from embeddings.test_embed import embed
from largegen.cli import run
from largegen.embeddings.convert.convert import ImportOptions, import_embeddings
from largegen.embeddings.file import EmbeddingFile, read_grid
from largegen.errors import EmbeddingFileError, InputError, OutputError
from largegen.slides.slide import open_slide

UNI = 1024


def random(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def save(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def save_h5(path: Path, coords_attrs=None, **arrays) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
        if coords_attrs:
            file["coords"].attrs.update(coords_attrs)
    return path


def imported(path: Path, slide=None, **given):
    """The grid that `path` is imported to."""
    return read_grid(import_embeddings(path, path.parent / "out", ImportOptions(**given), slide=slide, overwrite=True))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    return f"local-dir:{save_encoder(tmp_path_factory.mktemp('encoder') / 'e')}"


@pytest.fixture(scope="module")
def phikon() -> dict[str, str]:
    """What to say of the 768 numbers of an encoder whose weights are not at hand."""
    return {"encoder": "phikon"}


def test_zoomldm_grids(tmp_path):
    grid = random(3, 3, UNI)
    flat = grid.reshape(9, UNI)
    uni = imported(save(tmp_path / "7_uni_grid.npy", flat.T))
    dino = imported(save(tmp_path / "7_dino_grid.npy", flat.astype(np.float16)), gsd=0.6)
    np.testing.assert_array_equal(uni.features, grid)
    np.testing.assert_allclose(dino.features, grid, atol=2e-3)
    assert (uni.encoder, uni.licence, uni.source.kind) == ("uni_v1", "CC-BY-NC-ND-4.0", "slide")
    assert (dino.encoder, dino.source.kind, dino.source.gsd_m) == ("dinov2_vitl14_reg", "scene", 0.6)
    assert uni.tissue.all() and uni.tile_px == 256 and uni.source.width == 768
    assert uni.source.mpp is None and uni.source.name == "7_uni_grid"


def test_a_square_of_as_many_tiles_as_numbers_goes_by_its_name(tmp_path):
    square = random(UNI, UNI)
    assert (imported(save(tmp_path / "1_uni_grid.npy", square)).features[0, 1] == square[:, 1]).all()
    assert (imported(save(tmp_path / "1_dino_grid.npy", square)).features[0, 1] == square[1]).all()
    with pytest.raises(InputError, match="the other way around"):
        imported(save(tmp_path / "1.npy", square), encoder="uni_v1")


def test_one_tile_is_a_grid(tmp_path, phikon):
    one = random(768)
    for array in (one, one[None], one[:, None], one[None, None]):
        assert (imported(save(tmp_path / "one.npy", array), **phikon).features == one).all()


def test_arrays_with_rows_and_columns(tmp_path, phikon):
    grid = random(2, 5, 768)
    for array in (grid, grid.transpose(2, 0, 1), np.asfortranarray(grid).astype(np.float64)):
        found = imported(save(tmp_path / "grid.npy", array), mag=20, source_mag=40, **phikon)
        np.testing.assert_array_equal(found.features, grid)
        assert found.source.mpp == 0.25 and found.downsample == 2
        assert (found.source.width, found.source.height) == (5 * 512, 2 * 512)


def test_an_hdf5_file_of_several_magnifications(tmp_path, phikon):
    near, far = random(16, 768), random(2, 3, 768, seed=1)
    path = save_h5(tmp_path / "features.h5", feat_20x=near, feat_5x=far, index=np.arange(16))
    with pytest.raises(InputError, match="several: feat_20x, feat_5x; choose one with `dataset`"):
        imported(path, **phikon)
    assert (imported(path, dataset="feat_20x", **phikon).features.reshape(16, 768) == near).all()
    assert (imported(path, dataset="feat_5x", **phikon).features == far).all()


@pytest.mark.parametrize("save_npz", [np.savez, np.savez_compressed])
def test_npz_files(tmp_path, phikon, save_npz):
    grid, path = random(2, 3, 768), tmp_path / "grids.npz"
    save_npz(path, grid)
    assert (imported(path, **phikon).features == grid).all()
    save_npz(path, near=grid, far=-grid, names=np.array(["a", {}], object), index=np.arange(6))
    with pytest.raises(InputError, match="several: near, far; choose one with `dataset`"):
        imported(path, **phikon)
    assert (imported(path, dataset="far", **phikon).features == -grid).all()
    save_npz(path, features=GOOD["features"], coords=GOOD["coords"])
    assert (imported(path, tile_px=256, **phikon).features.reshape(4, -1) == GOOD["features"]).all()
    square = random(UNI, UNI)
    save_npz(tmp_path / "1.npz", square)
    with pytest.raises(InputError, match="npz where each column is a tile"):
        imported(tmp_path / "1.npz", encoder="uni_v1")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_arrays(tmp_path, phikon, protocol):
    grid = random(2, 3, 768)
    images = [{"feat_20x": g, "image": np.zeros((8, 8, 3), np.uint8), "id": "a"} for g in (grid, -grid)]
    for content, dataset in [
        (grid, None),
        (np.asfortranarray(grid), None),
        (grid.astype(">f4"), None),
        (collections.OrderedDict(feat=grid), None),
        (images, "0/feat_20x"),
        ({"feat": grid, "scale": np.float64(3)}, "feat"),
    ]:
        path = tmp_path / "grids.pickle"
        path.write_bytes(pickle.dumps(content, protocol))
        assert (imported(path, dataset=dataset, **phikon).features == grid).all()


class Malicious:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_runs_nothing(tmp_path, phikon, protocol):
    for content in (Malicious(tmp_path / "ran"), {"feat": random(4, 768), "more": Malicious(tmp_path / "ran")}):
        path = tmp_path / "evil.pkl"
        path.write_bytes(pickle.dumps(content, protocol))
        with pytest.raises(InputError, match="may run code"):
            imported(path, **phikon)
        assert not (tmp_path / "ran").exists()


def test_objects_in_arrays_are_refused(tmp_path, phikon):
    objects = np.array([random(768), None], dtype=object)
    (tmp_path / "o.pkl").write_bytes(pickle.dumps(objects))
    for path in (save(tmp_path / "o.npy", objects), tmp_path / "o.pkl"):
        with pytest.raises(InputError, match="may run code"):
            imported(path, **phikon)


@pytest.fixture(scope="module")
def slide(make_slide):
    with open_slide(make_slide(1300, 1000, name="case.svs")) as slide:
        yield slide


class Tiny:
    """An encoder of `phikon`'s name and dimension that needs no weights, for files with holes."""

    dim, dtype, fingerprint = 768, torch.float32, "none"
    spec = SimpleNamespace(name="phikon", licence="Owkin non-commercial licence")

    def encode(self, images):
        pixels = images.reshape(len(images), -1, 3).astype(np.float32)
        return np.tile(np.concatenate([pixels.mean(axis=1), pixels.std(axis=1)], axis=1), (1, 128))


def stripped(path: Path, target: Path, *, attributes: bool) -> Path:
    """An embedding file of ours as TRIDENT (with attributes) or CLAM (without) would have written it."""
    with h5py.File(path) as file:
        attrs = dict(file["coords"].attrs) if attributes else {}
        return save_h5(target, attrs, features=file["features"][:], coords=file["coords"][:])


@pytest.mark.parametrize("trident", [True, False])
@pytest.mark.parametrize("options", [{}, {"downsample": 2.0}, {"downsample": 1.002004}, {"overlap_px": 30}])
def test_our_own_files_come_back(slide, tmp_path, phikon, trident, options, caplog):
    own = embed(slide, tmp_path, Tiny(), **options)
    path = stripped(own, tmp_path / "theirs.h5", attributes=trident)
    given = {} if trident else {"tile_px": 100, "overlap_px": options.get("overlap_px")}
    found, expected = imported(path, slide=slide, **given, **phikon), read_grid(own)
    np.testing.assert_array_equal(found.tissue, expected.tissue)
    np.testing.assert_array_equal(found.features[found.tissue], expected.features[expected.tissue])
    assert found.downsample == pytest.approx(expected.downsample, rel=1e-4)
    assert (found.tile_px, found.overlap_px, found.origin_xy) == (100, expected.overlap_px, (0, 0))
    assert found.source == expected.source
    np.testing.assert_allclose(found.background, found.features[found.tissue].mean(0), rtol=1e-5)
    assert "tiles are missing" in caplog.text and "`encoder_weights`" in caplog.text


def test_tridents_attributes_stand_for_the_slide(slide, tmp_path, phikon):
    path = stripped(embed(slide, tmp_path, Tiny()), tmp_path / "theirs.h5", attributes=True)
    with h5py.File(path, "r+") as file:
        features = file["features"][:]
        del file["features"]
        file["features"] = features[None]  # as TRIDENT once wrote them
    file = EmbeddingFile(import_embeddings(path, tmp_path / "out", ImportOptions(**phikon)))
    s = file.settings
    assert (s.source_width, s.source_height, s.mpp, s.source_kind) == (1300, 1000, 0.5, "slide")
    assert (s.encoder_fingerprint, s.tissue_filter, s.precision) == ("", "unknown", "unknown")
    assert s.region == (0, 0, 10, 13) and file.coords_attrs["target_magnification"] == 20
    for wrong, word in [
        ({"tile_px": 256}, "`tile_px` 256"),
        ({"overlap_px": 3}, "`overlap_px` 3"),
        ({"mag": 10}, "`mag`"),
    ]:
        with pytest.raises(InputError, match=word):
            imported(path, **wrong, **phikon)


def test_tridents_folder_names_the_encoder(tmp_path):
    (tmp_path / "features_uni_v1").mkdir()
    coords = np.array([[0, 0], [512, 0], [0, 512], [512, 512]])
    path = save_h5(
        tmp_path / "features_uni_v1" / "a.h5",
        {"patch_size": 256, "patch_size_level0": 512, "overlap": 0, "level0_magnification": 40},
        features=random(4, UNI),
        coords=coords,
    )
    found = imported(path)
    assert (found.encoder, found.downsample, found.source.mpp) == ("uni_v1", 2, 0.25)
    assert found.tissue.shape == (2, 2) and found.source.width == 1024


def test_clams_tiles_begin_anywhere(tmp_path, phikon, caplog):
    """CLAM's grid begins at the tissue's corner; its patch_size is in pixels of patch_level."""
    corners = np.array([(1037 + 1024 * c, 2051 + 1024 * r) for r in range(3) for c in range(4) if (r, c) != (1, 1)])
    attrs = {"patch_size": 256, "patch_level": 1, "downsample": (4.0, 4.0), "level_dim": (3000, 3000)}
    features = random(11, 768)
    for said, given in [(attrs, {}), ({}, {}), ({}, {"mag": 10, "source_mag": 40})]:
        path = save_h5(tmp_path / "clam.h5", said, features=features, coords=corners)
        found = imported(path, **given, **phikon)
        file = EmbeddingFile(tmp_path / "out" / "clam.h5")
        assert (found.tile_px, found.downsample, found.overlap_px) == (256, 4, 0)
        assert found.origin_xy == (1037 % 1024, 2051 % 1024) and found.tissue.sum() == 11
        np.testing.assert_array_equal(file.coords(), corners)
        assert (found.features[3, 1] == features[4]).all() and not found.tissue[3, 2]
        assert found.source.mpp == (0.25 if given else None)
    assert "off one grid" not in caplog.text


def test_clams_pieces_of_tissue_are_moved_to_one_grid(tmp_path, phikon, caplog):
    def piece(x, y, n):
        return [(x + 256 * c, y + 256 * r) for r in range(n) for c in range(n)]

    corners = np.array([*piece(512, 256, 5), *piece(4000, 3000, 3)])
    features = random(34, 768)
    found = imported(save_h5(tmp_path / "two.h5", features=features, coords=corners), **phikon)
    assert found.tissue.sum() == 34 and found.origin_xy == (0, 0)
    assert (found.features[1, 2] == features[0]).all() and (found.features[12, 16] == features[25]).all()
    assert "of its 34 tiles, 0 were left out" in caplog.text and "up to 96 level-0 px off one grid" in caplog.text


def test_a_tile_twice_is_taken_once(tmp_path, phikon, caplog):
    corners = np.array([(256 * c, 256 * r) for r in range(4) for c in range(4)])
    corners, features = np.concatenate([corners, corners[5:6]]), random(17, 768)
    found = imported(save_h5(tmp_path / "twice.h5", features=features, coords=corners), **phikon)
    assert (found.features.reshape(16, 768) == features[:16]).all() and "1 were left out" in caplog.text


def test_one_tile_keeps_the_size_that_its_file_says(tmp_path, phikon):
    attrs = {"patch_size": 256, "patch_size_level0": 512, "overlap": 0}
    path = save_h5(tmp_path / "one.h5", attrs, features=random(1, 768), coords=np.array([[520, 1040]]))
    found = imported(path, **phikon)
    assert (found.downsample, found.origin_xy) == (2, (8, 16)) and found.tissue.tolist() == [[0, 0], [0, 0], [0, 1]]


def test_the_background_is_computed_where_weights_are_at_hand(tmp_path, tiny, caplog):
    from largegen.models.encoder import load_encoder

    coords = np.array([[0, 0], [64, 0], [128, 64]])
    path = save_h5(tmp_path / "a.h5", features=random(3, WIDTH), coords=coords)
    found = imported(path, encoder=tiny, tile_px=64)
    glass = load_encoder(tiny, device="cpu").encode(np.full((1, 64, 64, 3), 255, np.uint8))[0]
    np.testing.assert_allclose(found.background, glass, rtol=1e-4, atol=1e-5)
    assert (found.features[1, 0] == found.background).all() and "missing" not in caplog.text


def test_a_slide_gives_name_size_and_place(slide, tmp_path, phikon):
    path = save(tmp_path / "0.npy", random(3, 5, 768))
    found = imported(path, slide=slide, mag=10, tile_px=100, **phikon)
    assert (tmp_path / "out" / "case.h5").exists() and found.downsample == 2
    assert (found.source.width, found.source.mpp) == (1300, 0.5)
    with pytest.raises(InputError, match="give `mag`"):
        imported(path, slide=slide, **phikon)
    with pytest.raises(InputError, match="off a slide of 1300x1000"):
        imported(path, slide=slide, mag=5, tile_px=256, **phikon)


def zipped(**arrays) -> bytes:
    """The content of an .npz file."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def flipped(content: bytes) -> bytes:
    """A few wrong bytes in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes(255 - value for value in content[middle : middle + 8]) + content[middle + 8 :]


GOOD = {"features": random(4, 768), "coords": np.array([[0, 0], [256, 0], [0, 256], [256, 256]])}
FAR = np.array([[0, 0], [256, 0], [0, 256], [20_000_000, 20_000_000]])
GOOD_SIZE = {"patch_size": 256, "patch_size_level0": 256}
BAD = [
    (lambda p: None, "no such file"),
    (lambda p: p.mkdir(), "no embedding files in this directory"),
    (lambda p: p.write_bytes(b""), "empty file"),
    (lambda p: p.write_text("features of a slide"), "not an embedding file"),
    (lambda p: p.write_bytes(b"\x93NUMPY\x01\x00junk"), "damaged .npy"),
    (lambda p: p.write_bytes(b"\x93NUMPY\x01\x00\x0c\x00{'descr': (  "), "damaged .npy"),
    (lambda p: p.write_bytes(zipped(features=random(400, 768))[:-900]), "damaged .npz"),
    (lambda p: p.write_bytes(flipped(zipped(features=random(400, 768)))), "damaged .npz"),
    (lambda p: p.write_bytes(zipped(features=np.array([{}]), names=np.array(["a"]))), "it has no array"),
    (lambda p: torch.save(torch.ones(4, 768), p), "an archive, but not NumPy's"),
    (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "damaged HDF5"),
    (lambda p: p.write_bytes(pickle.dumps(random(4, 768))[:-900]), "damaged pickle"),
    (lambda p: p.write_bytes(pickle.dumps("text")), "it has no array"),
    (lambda p: save(p, random(4, 512)), r"768-dimensional embeddings of phikon; it has one \(4, 512\)"),
    (lambda p: save(p, random(5, 768)), "5 tiles are no square"),
    (lambda p: save(p, np.zeros((0, 768), np.float32)), "holds no embedding"),
    (lambda p: save(p, np.full((4, 768), np.nan, np.float32)), "not finite"),
    (lambda p: save(p, np.full((4, 768), 1e300)), "not finite"),
    (lambda p: save(p, np.zeros((4, 768), np.int64)), "holds no 768-dimensional embeddings of phikon"),
    (lambda p: save_h5(p, features=random(3, 768), coords=GOOD["coords"]), "do not fit together"),
    (lambda p: save_h5(p, features=GOOD["features"], coords=GOOD["coords"] - 9), "no places on a slide"),
    (lambda p: save_h5(p, features=GOOD["features"], coords=GOOD["coords"] + 1e19), "no places on a slide"),
    (lambda p: save_h5(p, features=GOOD["features"], coords=GOOD["coords"].astype("S")), "coords are no numbers"),
    (lambda p: save_h5(p, features=GOOD["features"], coords=FAR), "a grid of 78126x78126 tiles: its coords or"),
    (lambda p: save_h5(p, {"level0_width": 1e9, "level0_height": 1e9, "overlap": "x"}, **GOOD), "a grid of 3906250x39"),
    (lambda p: save_h5(p, features=GOOD["features"][:1], coords=GOOD["coords"][:1]), "how large its tiles are"),
    (lambda p: save_h5(p, {"patch_size_level0": 600, "overlap": 0}, **GOOD), "share their place"),
]


@pytest.fixture
def command(tmp_path, capfd):
    """Run `largegen embed --import` into tmp_path/out: exit code, stdout, stderr."""

    def call(*arguments) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run(["embed", "--import", "--out", str(tmp_path / "out"), "--device", "cpu", *map(str, arguments)])
        return code, *capfd.readouterr()

    return call


def assert_one_line(text: str, words: str) -> None:
    assert text.startswith("error: ") and text.count("\n") == 1 and re.search(words, text), text


@pytest.mark.parametrize(("make", "words"), BAD)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, command, make, words):
    make(tmp_path / "bad.npy")
    code, out, err = command(tmp_path / "bad.npy", "--encoder", "phikon")
    assert (code, out) == (2, "") and not list(tmp_path.glob("out/*"))
    assert_one_line(err, words)


def test_the_command_says_what_it_made(tmp_path, command):
    path = save(tmp_path / "a.npy", random(4, 768))
    code, out, _ = command(path, "--encoder", "phikon", "--mag", 20)
    assert code == 0 and out == f"{tmp_path / 'out' / 'a.h5'}: 4 tiles x 768, phikon\n"
    before = (tmp_path / "out" / "a.h5").read_bytes()
    code, _, err = command(path, "--encoder", "phikon")
    assert code == 1 and (tmp_path / "out" / "a.h5").read_bytes() == before
    assert_one_line(err, "exists already; use --overwrite")
    code, out, _ = command(path, "--encoder", "phikon", "--overwrite", "--json")
    (file,) = json.loads(out)["files"]
    assert code == 0 and (file["rows"], file["columns"], file["tiles"]) == (2, 2, 4)
    assert run(["info", str(tmp_path / "out" / "a.h5")]) == 0


def test_a_directory_stands_for_its_files(tmp_path, command):
    folder = tmp_path / "features_phikon"
    folder.mkdir()
    save(folder / "a.npy", random(4, 768))
    (folder / "b.NPZ").write_bytes(zipped(features=random(2, 2, 768)))
    save_h5(folder / "c.h5", GOOD_SIZE, **GOOD)
    (folder / "d.pkl").write_bytes(pickle.dumps(random(4, 768)))
    for name in ("notes.txt", ".hidden.npy"):
        (folder / name).write_text("")
    (folder / "e.h5").mkdir()
    code, out, _ = command(folder, folder / "a.npy")
    assert code == 0 and re.findall(r"(\w)\.h5: 4 tiles", out) == ["a", "b", "c", "d"]
    assert all(EmbeddingFile(file).settings.encoder == "phikon" for file in (tmp_path / "out").iterdir())
    (folder / "a.npz").write_bytes(zipped(features=random(2, 2, 768)))
    code, _, err = command(folder, "--overwrite")
    assert code == 2
    assert_one_line(err, "both would be written to a.h5")


def test_dry_run_writes_nothing(tmp_path, command):
    code, out, _ = command(save(tmp_path / "a.npy", random(4, 768)), "--encoder", "phikon", "-n")
    assert code == 0 and json.loads(out)["files"][0]["tiles"] == 4 and not (tmp_path / "out").exists()


def test_what_does_not_go_together_is_refused(tmp_path, command):
    a, b = (save(tmp_path / f"{name}.npy", random(4, 768)) for name in "ab")
    (tmp_path / "c").mkdir()
    for arguments, words in [
        ([a], "name it with --encoder"),
        ([a, "--encoder", "nobody"], "unknown"),
        ([a, "--encoder", "phikon", "--preview"], "--preview"),
        ([a, b, "--encoder", "phikon", "--slide", "s.svs"], "with one file"),
        ([a, shutil.copy(a, tmp_path / "c"), "--encoder", "phikon"], "both would be written to a.h5"),
        ([a, "--encoder", "phikon", "--mag", "-1"], "positive"),
        ([a, "--encoder", "phikon", "--tile-px", 64, "--overlap", 64], "overlap"),
        ([a, "--encoder", "phikon", "--dataset", "x"], "no array 'x'"),
    ]:
        code, _, err = command(*arguments)
        assert code == 2
        assert_one_line(err, words)
    assert not list(tmp_path.glob("out/*"))
    assert run(["embed", str(a), "--out", str(tmp_path / "out"), "--dataset", "x"]) == 2


def test_keep_going_does_the_others(tmp_path, command):
    bad, good = save(tmp_path / "bad.npy", random(5, 768)), save(tmp_path / "good.npy", random(4, 768))
    code, out, err = command(bad, good, "--encoder", "phikon", "--keep-going")
    assert code == 3 and "good.h5" in out and "no square" in err


def test_our_own_files_need_no_import(slide, tmp_path, command):
    own = embed(slide, tmp_path, Tiny())
    assert_one_line(command(own, "--encoder", "phikon")[2], "already; use it as it is")
    (tmp_path / "out").mkdir()
    theirs = stripped(own, tmp_path / "out" / "a.h5", attributes=True)
    assert_one_line(command(theirs, "--encoder", "phikon", "--overwrite")[2], "would be replaced")


def test_images_are_made_from_imported_files(tmp_path, command, tiny, capfd):
    model = save_model(tmp_path / "model", Path(tiny.removeprefix("local-dir:")))
    path = save(tmp_path / "grid.npy", random(WIDTH, 3, 4))
    assert command(path, "--encoder", tiny, "--tile-px", 64, "--mag", 20)[0] == 0
    options = ["--size", "full", "--steps", "2", "--device", "cpu", "--precision", "fp32", "--model", str(model)]

    def generate() -> int:
        out = ["--out", str(tmp_path / "a.png"), "--overwrite"]
        return run(["generate", "--embeddings", str(tmp_path / "out" / "grid.h5"), *out, *options])

    assert generate() == 0
    with open_slide(tmp_path / "a.png") as image:
        assert (image.width, image.height) == (256, 192)
    other = save_encoder(tmp_path / "other", seed=1)
    command(path, "--encoder", f"local-dir:{other}", "--tile-px", 64, "--overwrite")
    capfd.readouterr()
    assert generate() == 2  # the weights are not known, but the name is another
    assert "trained with" in capfd.readouterr().err
    command(path, "--encoder", tiny, "--overwrite")
    assert generate() == 2
    assert "tiles of 256 px" in capfd.readouterr().err


def test_zoom_and_sample_take_imported_files(tmp_path, command, tiny, capfd):
    model = save_model(tmp_path / "model", Path(tiny.removeprefix("local-dir:")), levels=3)
    grid = ["--encoder", tiny, "--tile-px", 64]
    assert command(save(tmp_path / "grid.npy", random(4, 5, WIDTH)), *grid)[0] == 0  # of unknown resolution
    tiles = {"features": random(4, WIDTH), "coords": np.array([[0, 0], [256, 0], [0, 256], [768, 768]])}
    assert command(save_h5(tmp_path / "tiles.h5", {"patch_size_level0": 256}, **tiles), *grid)[0] == 0
    options = ["--steps", "2", "--device", "cpu", "--precision", "fp32", "--model", str(model), "--json"]

    def make(name: str, what: str, *more) -> tuple[int, str]:
        files = ["--embeddings", str(tmp_path / "out" / f"{name}.h5"), "--out", str(tmp_path / f"{name}-{what}.png")]
        capfd.readouterr()
        return run([what, *files, *options, *map(str, more)]), capfd.readouterr().err

    for name in ("grid", "tiles"):
        assert make(name, "zoom", "--size", 256) == (0, "")
        assert make(name, "sample", "--level", 2, "-n", 3) == (0, "")
        sizes = {"zoom": (256, 256), "sample": (200, 64)}  # with gaps
        for what, size in sizes.items():
            with open_slide(tmp_path / f"{name}-{what}.png") as image:
                assert (image.width, image.height) == size
    code, error = make("grid", "zoom", "--size", 512, "--overwrite")
    assert code == 2
    assert_one_line(error, "zooms to 128, 256 px")


def test_an_imported_file_survives_being_read(tmp_path, phikon):
    """What is written passes the checks of every reader, and damage to it is seen."""
    path = import_embeddings(save(tmp_path / "a.npy", random(4, 768)), tmp_path / "out", ImportOptions(**phikon))
    with pytest.raises(OutputError, match="exists already"):
        import_embeddings(tmp_path / "a.npy", tmp_path / "out", ImportOptions(**phikon))
    with h5py.File(path, "r+") as file:
        file["coords"][0] = (5, 5)
    with pytest.raises(EmbeddingFileError, match="do not form a grid"):
        read_grid(path)
