"""Processes that vary the same images, one of which is killed."""

import csv
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from helpers.models import save_encoder, save_model
from helpers.slides import save_slide, tissue_like
from PIL import Image

from largegen.cli import run
from largegen.embeddings.file import EmbeddingFile


def start(command: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "largegen", *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def wait_for(found, process: subprocess.Popen) -> None:
    while not found():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def same(one: Path, other: Path) -> bool:
    """Whether two files hold the same; images and embeddings also say where they lie, or who made them."""
    if one.suffix == ".h5":
        return np.array_equal(EmbeddingFile(one).features(), EmbeddingFile(other).features())
    return pixels(one) == pixels(other) if one.suffix == ".tif" else one.read_bytes() == other.read_bytes()


def pixels(path: Path) -> bytes:
    return Image.open(path).tobytes()


@pytest.mark.slow
def test_two_share_the_work_of_a_killed_one(tmp_path):
    """The outputs are those of one process that nobody killed, and none is made twice."""
    save_model(tmp_path / "model", save_encoder(tmp_path / "encoder"))
    lines = ["file,label"]
    for number in range(4):
        save_slide(tmp_path / f"i{number}.tif", tissue_like(128, 128, number), 0.5)
        lines.append(f"i{number}.tif,{'ab'[number % 2]}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))

    def command(out) -> list[str]:
        words = ["augment", tmp_path / "labels.csv", "--out", out, "--model", tmp_path / "model", "--mix", "0.5"]
        return [*map(str, words), "--per-image", "3", "--steps", "10", "--no-compare", "--device", "cpu", "-q"]

    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run(command(whole)) == 0
    killed = start(command(out))
    wait_for(lambda: list(out.glob("train/*/*.tif")), killed)
    killed.kill()
    killed.communicate()
    begun = len(list(out.glob("train/*/*.tif")))
    both = [start(command(out)) for _ in range(2)]
    said = [process.communicate(timeout=600) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert not list(out.rglob("*.lock")) and begun < 12
    with (out / "summary.csv").open() as file:
        assert len({row["worker"] for row in csv.DictReader(file)}) >= 2
    for pattern in ("labels.csv", "train/*/*.tif", "embeddings/*.h5", "embeddings/conditions/*.h5"):
        names = sorted(path.relative_to(whole) for path in whole.glob(pattern))
        assert names and names == sorted(path.relative_to(out) for path in out.glob(pattern))
        assert [name for name in names if not same(whole / name, out / name)] == []
