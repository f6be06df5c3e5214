"""The example that measures whether variations help: what it draws, and its table."""

import csv
import json
import os
import shutil
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest
from helpers import ROOT
from helpers.priors import save_grid
from helpers.slides import tissue_like
from PIL import Image

FOLDER = ROOT / "examples" / "augmentation"


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    yield import_module
    for name in ("draw", "join", "report", "fields"):
        sys.modules.pop(name, None)


def save_data(folder, side: int):
    """Two slides, a region of train and one of test of each, and the manifest."""
    (folder / "histology").mkdir(parents=True)
    lines = ["file,split"]
    for number, (name, split) in enumerate([("fat-a-1-4096", "train"), ("fat-a-2-2048", "test")] * 2):
        path = f"histology/{name.replace('fat-a', ('fat-a', 'skin-b')[number // 2])}.jpg"
        Image.fromarray(tissue_like(side, side, number)).save(folder / path)
        lines.append(f"{path},{split}")
    (folder / "manifest.csv").write_text("\n".join(lines))


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_draws_are_nested_and_test_tiles_are_the_same(scripts, tmp_path, monkeypatch):
    draw, data, out = scripts("draw"), tmp_path / "data", tmp_path / "out"
    save_data(data, 512)
    words = ["draw.py", "organ", "--data", str(data), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [*words, "--side", "512"])
    draw.main()
    (out / "encoder").mkdir()
    for path in (out / "regions").glob("*.png"):
        save_grid(out / "encoder" / f"{path.stem}.h5", np.zeros((2, 2, 4), np.float32))
    monkeypatch.setattr(sys, "argv", [*words, "--shares", "0.01", "0.5", "1", "--seeds", "0", "1"])
    draw.main()
    one, half, whole = (table(out / "draws" / f"{share}-0.csv") for share in ("0.01", "0.5", "1"))
    assert [len(rows) for rows in (one, half, whole)] == [8 + 2, 8 + 4, 8 + 8]  # 8 tiles of test
    assert all(row in half for row in one) and all(row in whole for row in half)
    assert {row["split"] for row in table(out / "draws" / "0.5-1-tiles.csv")} == {"train"}
    both, first, second = (table(out / "draws" / f"0.5{seed}-tiles.csv") for seed in ("", "-0", "-1"))
    assert {row["file"] for row in both} == {row["file"] for row in [*first, *second]} and 4 < len(both) <= 8
    (row, *_) = (row for row in one if row["split"] == "train")
    cut = np.asarray(Image.open(out / "draws" / "tiles" / f"{row['file']}_{row['row']}_{row['col']}.png"))
    y, x = int(row["row"]) * 256, int(row["col"]) * 256
    region = np.asarray(Image.open(out / "regions" / f"{row['file']}.png"))
    np.testing.assert_array_equal(cut, region[y : y + 256, x : x + 256])


def test_tiles_of_the_town_are_built_up_by_the_mask(scripts, tmp_path):
    draw = scripts("draw")
    labels = tmp_path / "aerial" / "labels"
    labels.mkdir(parents=True)
    mask = np.zeros((512, 512), np.uint8)
    mask[:256, 256:] = 255
    x, y = 2816 * 1 + 256, 2176 * 2  # of the second tile of the first row of cell 1, 2
    Image.fromarray(mask).save(labels / f"town-mask-x{x}-y{y}.png")
    (tmp_path / "encoder").mkdir()
    save_grid(tmp_path / "encoder" / "banepa-town-12-x.h5", np.zeros((3, 4, 4), np.float32))
    found = draw.built([(tmp_path / "aerial" / "banepa-town-12-x.jpg", "train")], tmp_path)
    assert {(row["row"], row["col"]): row["label"] for row in found} == {
        **{("0", "1"): "open", ("0", "2"): "built"},
        **{("1", "1"): "open", ("1", "2"): "open"},
    }


def test_of_variations_those_of_drawn_tiles_are_joined(scripts, tmp_path, monkeypatch, capsys):
    (tmp_path / "real.csv").write_text("file,row,col,label,split,patient\nr,0,1,a,test,p\n")
    (tmp_path / "made.csv").write_text(
        "file,label,split,source,seed\ntrain/a/x-0.png,a,train,d/tiles/x.png,1\ntrain/b/y-0.png,b,train,d/tiles/y.png,2\n"
    )
    (tmp_path / "drawn.csv").write_text("file,label\ntiles/y.png,b\n")
    names = ("real.csv", "made.csv", "drawn.csv")
    monkeypatch.setattr(sys, "argv", ["join.py", *(str(tmp_path / name) for name in names)])
    scripts("join").main()
    assert capsys.readouterr().out.splitlines()[1:] == ["r,0,1,a,test,p", "train/b/y-0.png,,,b,train,"]


def test_the_table_has_means_over_seeds_and_paired_differences(scripts, tmp_path):
    folder = tmp_path / "organ" / "probed"
    folder.mkdir(parents=True)
    for arm, values in (("real", (0.5, 0.7)), ("images", (0.6, 0.9))):
        for seed, value in enumerate(values):
            figure = {"value": value, "low": 0.1, "high": 0.9}
            name = "run/organ/encoder" if arm == "real" else "files"
            rows = [{"features": name, "classifier": "knn", "figures": {"accuracy": figure, "auc": figure}}]
            (folder / f"0.1-{seed}-{arm}.json").write_text(json.dumps({"results": rows}))
    report = scripts("report")
    lines = report.text(report.read(folder)).splitlines()
    assert "| 10 % | images | encoder | knn | 0.750 (0.600-0.900) | 0.750 (0.600-0.900) | +0.150 ± 0.635 |" in lines
    assert "| 10 % | real | encoder | knn | 0.600 (0.500-0.700) | 0.600 (0.500-0.700) |  |" in lines


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_the_smoke_size_runs(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "example", ignore=shutil.ignore_patterns("run", "smoke"))
    save_data(tmp_path / "data", 1024)
    python = [f"LARGEGEN={sys.executable} -m largegen", f"PYTHON={sys.executable}"]
    done = subprocess.run(
        ["make", "-j2", "smoke", f"DATA={tmp_path / 'data'}", *python],
        cwd=tmp_path / "example",
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    text = (tmp_path / "example" / "smoke" / "organ.md").read_text()
    assert "| vectors | encoder | linear |" in text and "| null/20x+5x | knn |" in text
