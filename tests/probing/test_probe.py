"""`largegen probe`: classifiers on embedding files."""

import json

import numpy as np
import pytest
from helpers.commands import assert_one_line
from helpers.priors import save_grid

from largegen.cli import run

pytest.importorskip("sklearn", reason="largegen[probe] is not installed")

CLASSES = ("fat", "gland")


def features(side: int, kind: int, seed: int, telling: float) -> np.ndarray:
    """Tiles of two dimensions that tell the kind by `telling` standard deviations, and two that tell nothing."""
    rng = np.random.default_rng(seed)
    tiles = rng.normal(size=(side, side, 4)).astype(np.float32)
    tiles[..., 0] += telling * (2 * kind - 1)
    return tiles


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sets `good` and `bad` of 16 slides of 8 patients, and labels.csv."""
    folder = tmp_path_factory.mktemp("probe")
    lines = ["file,label,patient"]
    for number in range(16):
        kind = number // 2 % 2
        for name, telling in (("good", 2.0), ("bad", 0.0)):
            (folder / name).mkdir(exist_ok=True)
            save_grid(folder / name / f"s{number}.h5", features(3, kind, number, telling))
        lines.append(f"s{number}.svs,{CLASSES[kind]},p{number // 2}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder


def probed(capfd, folder, *options) -> dict:
    arguments = ["probe", str(folder / "good"), str(folder / "bad"), "--labels", str(folder / "labels.csv"), *options]
    assert run([*arguments, "--json", "-q"]) == 0
    return json.loads(capfd.readouterr().out)


def test_slides(capfd, folder, tmp_path):
    found = probed(capfd, folder, "--folds", "2", "--epochs", "25", "--out", str(tmp_path / "probe.json"))
    assert (found["patients"], found["classes"]) == (8, {"fat": 8, "gland": 8})
    auc = {(row["features"].rpartition("/")[2], row["classifier"]): row["figures"]["auc"] for row in found["results"]}
    assert set(auc) == {(name, kind) for name in ("good", "bad") for kind in ("linear", "knn", "mil")}
    for (name, kind), figure in auc.items():
        assert figure["low"] <= figure["value"] <= figure["high"]
        assert figure["value"] > 0.95 if name == "good" else figure["value"] < 0.85, kind
    assert json.loads((tmp_path / "probe.json").read_text()) == found


def test_tiles(capfd, folder):
    found = probed(capfd, folder, "--unit", "tile", "--folds", "4")
    assert {row["classifier"] for row in found["results"]} == {"linear", "knn"}
    good, bad = found["results"][0]["figures"], found["results"][2]["figures"]
    assert good["accuracy"]["value"] > 0.9 and bad["accuracy"]["low"] < 0.6


def test_the_same_again(capfd, folder):
    command = ["probe", str(folder / "good"), "--labels", str(folder / "labels.csv"), "--folds", "2", "--epochs", "1"]
    assert [run(command), run(command)] == [0, 0]
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 12 and lines[:6] == lines[6:]


def test_table(capfd, folder):
    assert run(["probe", str(folder / "good"), "--labels", str(folder / "labels.csv"), "--unit", "tile"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["features", "numbers", "classifier", "AUC"]
    assert lines[-1] == "16 slides of 8 patients: fat 8, gland 8"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("gland", "fat"), "one class only, fat"),
        (lambda text: text.replace("s15.svs,gland", "s15.svs,rare"), "1 classes have one patient only, rare first"),
        (lambda text: text + "\ns0.svs,gland,p0", "1 files have lines that contradict each other, s0.svs first"),
        (lambda text: text.replace("s3.svs,gland", "s3.svs,"), "1 lines lack a file or a label, line 5 first"),
        (lambda text: text.replace("s", "x"), "names no slide that all features have"),
        (
            lambda text: "\n".join(
                line + "," + ("split" if not n else "train" if n % 2 else "test")
                for n, line in enumerate(text.splitlines())
            ),
            "8 patients are in train and in test, p0 first",
        ),
        (
            lambda text: "\n".join(
                line + "," + ("train" if n else "split") for n, line in enumerate(text.splitlines())
            ),
            "all 16 slides are in train",
        ),
        (
            lambda text: "\n".join(line + "," + ("what" if n else "split") for n, line in enumerate(text.splitlines())),
            "split 'what' on 16 lines: train, val or test",
        ),
    ],
)
def test_bad_labels_are_one_line(capfd, folder, tmp_path, change, message):
    labels = tmp_path / "labels.csv"
    labels.write_text(change((folder / "labels.csv").read_text()))
    assert run(["probe", str(folder / "good"), "--labels", str(labels)]) == 2
    assert_one_line(capfd.readouterr().err, message)


def test_what_is_left_out_is_counted(capfd, folder, tmp_path):
    labels = tmp_path / "labels.csv"
    rows = (folder / "labels.csv").read_text().splitlines()
    labels.write_text("\n".join([*rows[:13], rows[1], "gone.svs,fat,p9"]))
    assert run(["probe", str(folder / "good"), "--labels", str(labels), "--unit", "tile", "--folds", "3"]) == 0
    said = capfd.readouterr().err
    assert "1 of 13 files are named more than once: counted once (s0.svs)" in said
    assert "no features for 1 of 13 labelled slides: left out (gone.svs)" in said
    assert "no label for 4 of 16 files" in said


def test_a_given_split(capfd, folder, tmp_path):
    labels = tmp_path / "labels.csv"
    rows = (folder / "labels.csv").read_text().splitlines()
    parts = ["split", *["train"] * 8, *["test"] * 8]
    labels.write_text("\n".join(f"{row};{part}".replace(",", ";") for row, part in zip(rows, parts, strict=True)))
    assert run(["probe", str(folder / "good"), "--labels", str(labels), "--unit", "tile", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["parts"] == "split" and found["results"][0]["figures"]["auc"]["value"] > 0.95


def test_labels_of_single_tiles(capfd, folder, tmp_path):
    """Of the tiles of two slides, those of the first column are of one class; each row is a patient."""
    lines = ["file,row,col,label,patient"]
    for number in (0, 2):
        for row in range(3):
            lines += [f"s{number}.svs,{row},{col},{CLASSES[number // 2]},p{number} {row}" for col in range(3)]
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(lines))
    command = ["probe", str(folder / "good"), "--labels", str(labels), "--unit", "tile", "--folds", "3"]
    assert run([*command, "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["patients"] == 6 and found["classes"] == {"fat": 9, "gland": 9}
    assert found["results"][0]["figures"]["accuracy"]["value"] > 0.7
    for wrong, message in ((",0,,", "row and col: two whole numbers"), (",3,0,", "no tile at row 3, column 0")):
        labels.write_text("\n".join(lines).replace(",0,0,", wrong, 1))
        assert run(command)
        assert_one_line(capfd.readouterr().err.splitlines()[-1] + "\n", message)
