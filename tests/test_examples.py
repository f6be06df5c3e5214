"""The examples in Python that need no bundled model run with a tiny one; the others: models/test_starter.py."""

import sys
from importlib.util import module_from_spec, spec_from_file_location

import numpy as np
import pytest
from helpers import ROOT
from helpers.priors import save_grid
from helpers.slides import tissue_like
from PIL import Image

from largegen.embeddings.directions import Directions

pytest.importorskip("sklearn", reason="largegen[probe] is not installed")


@pytest.fixture
def example():
    spec = spec_from_file_location("counterfactual", ROOT / "examples/counterfactual/counterfactual.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def counterfactual(example, model, tmp_path, monkeypatch):
    """Runs the example on a tiny image, with a tiny model: gives what it left."""
    Image.fromarray(tissue_like(700, 500, 0)[100:292, 100:292]).save(tmp_path / "image.png")

    def run(*more):
        options = ["--model", model.directory, "--image", tmp_path / "image.png", "--at", "64,64", "--steps", 1]
        words = [*options, "--amounts", 0, 1, "--guidance", 1, "--out", tmp_path / "out", *more]
        monkeypatch.setattr(sys, "argv", ["counterfactual.py", *map(str, words)])
        example.main()
        return [line.split(" | ") for line in (tmp_path / "out" / "scores.md").read_text().splitlines()]

    return run


def test_a_part_is_moved_between_labelled_files(counterfactual, model, tmp_path):
    about = {"encoder": model.info.encoder, "encoder_fingerprint": model.info.encoder_fingerprint}
    lines = ["file,label"]
    for number in range(4):
        tiles = np.random.default_rng(number).normal(number % 2, 0.1, (2, 2, 16)).astype(np.float32)
        save_grid(tmp_path / "in" / f"s{number}.h5", tiles, **about)
        lines.append(f"s{number},{('benign', 'tumour')[number % 2]}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    table = counterfactual("--embeddings", tmp_path / "in", "--labels", tmp_path / "labels.csv", "--towards", "tumour")
    assert [row[0] for row in table[2:]] == ["| the image as it is", "| 0", "| 1"]
    assert table[2][1].split(" ")[0] == table[3][1]  # moved by nothing, what is asked for is what is there
    assert float(table[4][1]) > float(table[3][1])
    assert Image.open(tmp_path / "out" / "pictures.png").size == (3 * 192, 192)
    way = Directions.read(tmp_path / "out" / "directions.npz")
    np.testing.assert_allclose(way.ways["tumour"], 1, atol=0.15)
    assert way.encoder_fingerprint == model.info.encoder_fingerprint


def test_a_part_is_moved_towards_the_dark_tiles_of_the_image(counterfactual):
    table = counterfactual("--towards", "dense")
    assert float(table[4][1]) > float(table[3][1]) == float(table[2][1].split(" ")[0])
