"""`largegen augment`: variations of labelled images as files."""

import csv
import json

import numpy as np
import pytest
from helpers.commands import assert_one_line
from helpers.models import save_encoder, save_model
from helpers.slides import save_slide, tissue_like
from PIL import Image

from largegen.cli import run
from largegen.embeddings.annotations import names_of
from largegen.embeddings.file import EmbeddingFile
from largegen.models.encoder import load_encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two images of `fat`, one of `gland`, a test image of it, 128 px each, labels.csv, and a model of 64 px tiles."""
    folder = tmp_path_factory.mktemp("augment")
    save_model(folder / "model", save_encoder(folder / "encoder"))
    lines = ["file;label;patient;split"]
    for number, (label, split) in enumerate(
        [("fat", "train"), ("fat", "train"), ("gland", "train"), ("gland", "test")]
    ):
        save_slide(folder / f"i{number}.tif", tissue_like(128, 128, number), 0.5)
        lines.append(f"i{number}.tif;{label};p{number};{split}")
    (folder / "labels.csv").write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    return folder


def command(folder, out, *options) -> list[str]:
    words = ["augment", folder / "labels.csv", "--out", out, "--model", folder / "model", "--steps", "2"]
    return [*map(str, words), "--device", "cpu", *options]


def rows(out) -> list[dict]:
    with (out / "labels.csv").open() as file:
        return list(csv.DictReader(file))


def test_images_of_their_own_embeddings(capfd, folder, tmp_path):
    out = tmp_path / "out"
    assert run(command(folder, out, "--per-image", "2", "--no-compare", "--json")) == 0
    assert json.loads(capfd.readouterr().out) == {
        **{"out": str(out), "images": 3, "variations": 6, "done": 6, "failed": 0, "waiting": 0, "running": 0}
    }
    table = rows(out)
    assert [row["file"] for row in table[:2]] == ["train/fat/i0-0.tif", "train/fat/i0-1.tif"]
    assert {row["split"] for row in table} == {"train"} and table[-1]["patient"] == "p2"
    assert not any("i3" in row["file"] for row in table)  # a test image is never varied
    one, two = (np.asarray(Image.open(out / row["file"])) for row in table[:2])
    assert one.shape == (128, 128, 3) and (one != two).any()
    original = EmbeddingFile(out / "embeddings" / "originals" / "i0.h5")
    condition = EmbeddingFile(out / "embeddings" / "conditions" / "i0-0.h5")
    np.testing.assert_array_equal(condition.features(), original.features())
    encoder = load_encoder(f"local-dir:{folder / 'model' / 'encoder'}", device="cpu")
    tiles = one.reshape(2, 64, 2, 64, 3).swapaxes(1, 2).reshape(4, 64, 64, 3)
    twin = EmbeddingFile(out / "embeddings" / "i0-0.h5")  # of the pixels that were made
    np.testing.assert_allclose(twin.features(), encoder.encode(tiles), atol=1e-5)
    assert twin.settings.source_path == str(out / table[0]["file"])

    before = (out / "train/fat/i0-0.tif").stat().st_mtime_ns
    (out / "train/fat/i0-1.tif").unlink()
    assert run(command(folder, out, "--per-image", "2", "--no-compare")) == 0  # what is not there is made, to the same
    assert (out / "train/fat/i0-0.tif").stat().st_mtime_ns == before
    np.testing.assert_array_equal(np.asarray(Image.open(out / "train/fat/i0-1.tif")), two)


def test_mixed_and_in_another_stain(capfd, folder, tmp_path):
    out = tmp_path / "out"
    how = ["--per-image", "1", "--mix", "0.8", "--stain-jitter", "0.2", "--embeddings-only"]
    assert run(command(folder, out, *how)) == 0
    assert "1 classes have one image, gland first: not mixed" in capfd.readouterr().err
    table = rows(out)
    assert [row["mixed_with"] for row in table] == ["i1", "i0", ""]
    assert 0 < float(table[0]["mix"]) < 0.8 and {row["stain_jitter"] for row in table} == {"0.2"}
    file = EmbeddingFile(out / table[0]["file"])
    assert json.loads(file.settings.imagined)["mixed_with"] == "i1"
    original = EmbeddingFile(out / "embeddings" / "originals" / "i0.h5")
    assert np.abs(file.features() - original.features()).max() > 1e-3
    assert not (out / "train").exists()
    assert names_of(file) == {"i0-0.h5", "i0-0"}  # not those of the image, which other variations have, too


def test_images_that_no_line_names_are_counted(capfd, folder, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text(
        "file,label,split\n" + "\n".join(f"{folder}/i{n}.tif,fat,{split}" for n, split in ((0, "train"), (3, "test")))
    )
    words = ["augment", str(table), "--out", str(tmp_path / "out"), "--model", str(folder / "model"), "--device", "cpu"]
    assert run([*words, "--per-image", "1", "--embeddings-only", "--stain-jitter", "0.1", "--no-compare"]) == 0
    said = capfd.readouterr().err
    assert f"{table}: no line for 2 images beside these, i1.tif first: left out" in said
    assert "one class only, fat: a classifier needs two" in said


def test_folders_of_classes(capfd, folder, tmp_path):
    for number, label in ((0, "fat"), (2, "gland")):
        (tmp_path / "classes" / label).mkdir(parents=True)
        (tmp_path / "classes" / label / f"i{number}.tif").write_bytes((folder / f"i{number}.tif").read_bytes())
    (tmp_path / "classes" / "i1.tif").write_bytes((folder / "i1.tif").read_bytes())
    words = ["augment", str(tmp_path / "classes"), "--out", str(tmp_path / "out"), "--model", str(folder / "model")]
    assert run([*words, "--per-image", "1", "--steps", "1", "--no-compare", "--device", "cpu"]) == 0
    assert [row["label"] for row in rows(tmp_path / "out")] == ["fat", "gland"]
    assert "1 images lie in no class's folder, i1.tif first: left out" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda text: text.replace("i1.tif", "gone.tif"), [], "1 of 3 files are not there, gone.tif first"),
        (lambda text: text.replace("i1.tif;fat", "i1.tif;"), [], "1 lines lack a file or a label, line 3 first"),
        (lambda text: text.replace("train", "test"), [], "no line is in train"),
        (lambda text: text.replace("p3", "p0"), [], "1 patients are in train and in test, p0 first"),
        (lambda text: text.replace("i1.tif", "i0.tif"), [], "1 names occur more than once, i0 first"),
        (lambda text: text.replace("gland", "a/b"), [], "1 labels cannot be names of folders, 'a/b' first"),
        (lambda text: text.replace("fat", "..").replace("gland", "a/b"), [], "2 labels cannot be names of folders"),
        (lambda text: text, ["--embeddings-only"], "--embeddings-only: without --mix or --stain-jitter"),
    ],
)
def test_bad_input_is_one_line(capfd, folder, tmp_path, change, options, message):
    labels = folder / f"{tmp_path.name}.csv"
    labels.write_text(change((folder / "labels.csv").read_text(encoding="utf-8-sig")))
    words = ["augment", str(labels), "--out", str(tmp_path / "out"), "--model", str(folder / "model"), "-q", *options]
    assert run([*words, "--device", "cpu"]) == 2
    assert_one_line(capfd.readouterr().err, message)
