"""Directions between classes, from `largegen probe` to a file."""

import numpy as np
import pytest
from helpers.commands import assert_one_line
from helpers.priors import save_grid

from largegen.cli import run
from largegen.embeddings.directions import Directions
from largegen.errors import InputError

pytest.importorskip("sklearn", reason="largegen[probe] is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight slides of three classes, which differ in the first two of three numbers, and labels.csv."""
    folder = tmp_path_factory.mktemp("directions")
    lines = ["file,label"]
    for number in range(9):
        kind = number % 3
        tiles = np.random.default_rng(number).normal(0, 0.1, (4, 4, 3)).astype(np.float32)
        tiles[..., 0] += 4 * (kind == 1)
        tiles[..., 1] += 4 * (kind == 2)
        save_grid(folder / f"s{number}.h5", tiles)
        lines.append(f"s{number},{('fat', 'a=b', 'gland')[kind]}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize("unit", ["slide", "tile"])
def test_they_lead_from_the_others_to_a_class(folder, tmp_path, unit):
    out = tmp_path / "ways.npz"
    options = ["--labels", folder / "labels.csv", "--unit", unit, "--folds", 3, "--epochs", 1, "-q"]
    assert run(["probe", *map(str, [folder, *options, "--save-directions", out])]) == 0
    found = Directions.read(out)
    assert set(found.ways) == {name + more for name in ("fat", "a=b", "gland") for more in ("", ".linear")}
    np.testing.assert_allclose(found.ways["a=b"], [4, -2, 0], atol=0.1)
    np.testing.assert_allclose(found.ways["fat"], [-2, -2, 0], atol=0.1)
    linear = found.ways["gland.linear"]
    assert linear[1] > 2 and linear[0] < -0.5 and abs(linear[2]) < 0.1
    assert found.encoder
    with pytest.raises(InputError, match=r"`directions` .*: of .*, but the model needs another"):
        found.check("another", "of other weights", out)


def test_a_file_of_numpy_is_read_too(tmp_path):
    np.savez(tmp_path / "ways.npz", tumour=np.ones(3))
    found = Directions.read(tmp_path / "ways.npz")
    found.check("any", None, tmp_path / "ways.npz")
    assert found.ways["tumour"].tolist() == [1, 1, 1] and not found.encoder


def test_directions_are_of_one_set(folder, tmp_path, capfd):
    options = ["--labels", folder / "labels.csv", "--save-directions", tmp_path / "ways.npz", "-q"]
    assert run(["probe", *map(str, [folder, folder / "s0.h5", *options])]) == 2
    assert_one_line(capfd.readouterr().err, "--save-directions: directions are of one set")
