"""`largegen embed --import`: what it makes, and bad files are one line."""

import gzip
import io
import json
import pickle
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from helpers.embeddings import GOOD, Tiny, embed, random, save, save_h5, stripped
from helpers.models import WIDTH, save_encoder, save_model

from largegen.cli import run
from largegen.embeddings.convert.convert import import_embeddings
from largegen.embeddings.convert.facts import ImportOptions
from largegen.embeddings.file import EmbeddingFile, read_grid
from largegen.errors import EmbeddingFileError, OutputError
from largegen.slides.slide import open_slide


def zipped(**arrays) -> bytes:
    """The content of an .npz file."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def flipped(content: bytes) -> bytes:
    """A few wrong bytes in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes(255 - value for value in content[middle : middle + 8]) + content[middle + 8 :]


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
    (lambda p: torch.save(torch.ones(4, 768), p), "tensors of PyTorch, which do not say where their tiles lie"),
    (lambda p: p.write_bytes(b"PK\x05\x06" + bytes(18)), "not an embedding file"),
    (lambda p: p.write_text("<!DOCTYPE html><html>"), "a web page: the download failed"),
    (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1"), "a pointer of Git LFS"),
    (lambda p: p.write_bytes(gzip.compress(b"features")), "a compressed file; unpack it"),
    (lambda p: save_h5(p, features=GOOD["features"], coordinates=GOOD["coords"] - 9), "no places on a slide"),
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
    (lambda p: save_h5(p, features=GOOD["features"], coords=GOOD["coords"].astype("S")), "coords are not numbers"),
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
    code, out, err = command(path, "--encoder", "phikon", "--mag", 20)
    assert "a.npy: does not say where its tiles lie; taken for 2x2, row by row" in err
    assert code == 0 and out == f"{tmp_path / 'out' / 'a.h5'}: 4 tiles x 768, phikon\n"
    before = (tmp_path / "out" / "a.h5").read_bytes()
    code, _, err = command(path, "--encoder", "phikon")
    assert code == 1 and (tmp_path / "out" / "a.h5").read_bytes() == before
    assert_one_line(err, "exists already; use --overwrite")
    code, out, _ = command(path, "--encoder", "phikon", "--overwrite", "--json")
    (file,) = json.loads(out)["files"]
    assert code == 0 and (file["rows"], file["columns"], file["tiles"]) == (2, 2, 4)
    assert run(["info", str(tmp_path / "out" / "a.h5")]) == 0


def test_import_is_a_command_too(tmp_path, command, capfd):
    path = save(tmp_path / "a.npy", random(4, 768))
    assert command(path, "--encoder", "phikon", "--mag", 20)[0] == 0
    common = ["--out", str(tmp_path / "other"), "--encoder", "phikon", "--mag", "20", "--json"]
    assert run(["import", str(path), *common]) == 0
    (file,) = json.loads(capfd.readouterr().out)["files"]
    ours, theirs = EmbeddingFile(Path(file["file"])), EmbeddingFile(tmp_path / "out" / "a.h5")
    assert np.array_equal(ours.features(), theirs.features()) and ours.settings == theirs.settings


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
    code, _, err = command(folder, "--overwrite", "-q")
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
        import_embeddings(save(tmp_path / "a.npy", random(9, 768)), tmp_path / "out", ImportOptions(**phikon))
    with h5py.File(path, "r+") as file:
        file["coords"][0] = (5, 5)
    with pytest.raises(EmbeddingFileError, match="do not form a grid"):
        read_grid(path)
