"""What variations are compared with: images of train, images that are held out, and one another."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from helpers.models import save_encoder, save_model
from helpers.priors import save_grid
from helpers.slides import save_slide, tissue_like

from largegen.augmenting.checks import nearest, seen_in_training, summary
from largegen.augmenting.items import Item
from largegen.cli import run
from largegen.embeddings.file import EmbeddingFile
from largegen.models.info import ModelInfo, TrainingSlide

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three images of train, of 128 px each, two of test, one of which shows what an image of train does; a model."""
    folder = tmp_path_factory.mktemp("checks")
    save_model(folder / "model", save_encoder(folder / "encoder"))
    lines = ["file,label,split"]
    for number in range(4):
        save_slide(folder / f"i{number}.tif", tissue_like(128, 128, number), 0.5)
        lines.append(f"i{number}.tif,fat,{'test' if number == 3 else 'train'}")
    shutil.copy(folder / "i1.tif", folder / "copy.tif")
    (folder / "labels.csv").write_text("\n".join([*lines, "copy.tif,fat,test", "gone.tif,fat,val"]))
    return folder


def augmented(capfd, folder, out) -> tuple[list[dict], dict, str]:
    """Make two variations of each image: the table, what comparisons found, and what was said."""
    words = ["augment", folder / "labels.csv", "--out", out, "--model", folder / "model", "--steps", "1"]
    assert run([*map(str, words), "--per-image", "2", "--device", "cpu", "--json"]) == 0
    said = capfd.readouterr()
    with (out / "labels.csv").open() as file:
        return list(csv.DictReader(file)), json.loads(said.out)["compared"], said.err


def test_what_is_near(capfd, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("largegen.augmenting.checks.can_see", lambda: False)  # as without largegen[perceptual]
    table, compared, said = augmented(capfd, folder, tmp_path)
    assert "1 of 3 files that are not in train are not there, gone.tif first: variations are not compared" in said
    assert "one class only, fat: a classifier needs two" in said
    assert "1 of 3 images of train show what an image that is not in train shows, i1 first" in said
    assert [row["file"] for row in table] == [f"train/fat/i{n}-{k}.tif" for n in (0, 2) for k in (0, 1)]
    assert {row["nearest"] for row in table} <= {"i0", "i2"}
    assert {row["nearest_held_out"] for row in table} <= {"i3", "copy"}
    assert all(-1 <= float(row["similarity"]) <= 1 for row in table)
    assert compared["compared"] == compared["compared_with_held_out"] == 4
    assert compared["st_lpips"] is None and not any(row["st_lpips"] for row in table)


@pytest.mark.slow
def test_how_unlike_variations_are(capfd, folder, tmp_path):
    pytest.importorskip("stlpips_pytorch", reason="largegen[perceptual] is not installed")
    table, compared, _ = augmented(capfd, folder, tmp_path)
    assert [bool(row["st_lpips"]) for row in table] == [True, False, True, False]  # each with the next of its image
    assert compared["st_lpips_pairs"] == 2 and 0 < compared["st_lpips_between_images"] < 2


def test_the_nearest_tile_and_its_similarity(tmp_path):
    rng = np.random.default_rng(0)
    grids = [rng.normal(size=(2, 3, 8)).astype(np.float32) for _ in range(3)]
    known = [EmbeddingFile(save_grid(tmp_path / f"{n}.h5", grid)) for n, grid in enumerate(grids)]
    other = rng.normal(size=(1, 2, 8)).astype(np.float32)
    other[0, 1] = 3 * grids[2][1, 0]  # the same direction
    (found,) = nearest([EmbeddingFile(save_grid(tmp_path / "other.h5", other))], known, CPU)
    assert (found.known, found.tile, found.known_tile) == (2, 1, 3) and found.similarity == pytest.approx(1)


def test_a_model_is_known_to_have_seen_images_their_slides_and_their_patients(tmp_path):
    info = ModelInfo("m", trained_on=(TrainingSlide("slide-1"), TrainingSlide("anna")))
    names = {"slide-1": "", "slide-1_0_256": "", "slide-10": "", "tile-7": "anna", "other": "bert"}
    items = [Item(name, tmp_path / name, "fat", patient) for name, patient in names.items()]
    assert seen_in_training(info, items) == ["slide-1", "slide-1_0_256", "tile-7"]


def test_variations_nearer_to_what_is_held_out_are_named():
    row = {"varied_from": "a", "nearest": "a", "similarity": 0.8, "nearest_held_out": "t"}
    rows = [
        row | {"file": "a-0", "held_out_similarity": 0.7},
        row | {"file": "a-1", "held_out_similarity": 0.9},
        row | {"file": "a-2", "nearest": "b", "held_out_similarity": 0.1},
    ]
    found = summary(rows, [0.2, 0.4])
    assert (found["nearest_to_their_own_image"], found["nearer_to_a_held_out_image"]) == (2, 1)
    assert found["nearer_first"] == "a-1" and found["st_lpips_between_images"] == pytest.approx(0.3)
