"""Embedding files of STAMP and HEST."""

import h5py
import numpy as np
import pytest
from helpers.embeddings import imported, random

from largegen.embeddings.convert.convert import read_import
from largegen.embeddings.convert.facts import ImportOptions
from largegen.errors import InputError
from largegen.slides.slide import open_slide

STAMP = {"extractor": "mahmood-uni", "tile_size_px": 224, "tile_size_um": 256.0, "unit": "um"}
CELLS = np.array([(1, 0), (2, 0), (3, 0), (0, 1), (2, 2)])  # column, row


def stamp(path, um=256.0, **changes):
    with h5py.File(path, "w") as file:
        file["feats"] = random(len(CELLS), 1024, dtype=np.float16)
        file["coords"] = (CELLS * um).astype(np.float32)
        file.attrs.update({key: value for key, value in (STAMP | changes).items() if value is not None})
    return path


@pytest.mark.parametrize("changes", [{}, {"extractor": b"mahmood-uni"}, {"unit": "µm"}, {"tile_size_px": None}])
def test_stamp_alone_takes_the_tiles_resolution(tmp_path, changes):
    grid = imported(stamp(tmp_path / "a.h5", **changes))
    assert grid.encoder == "uni_v1" and (grid.tile_px, grid.overlap_px) == (224, 0)
    assert grid.source.mpp * grid.downsample == pytest.approx(256 / 224)
    assert [tuple(cell) for cell in np.argwhere(grid.tissue)] == sorted((row, col) for col, row in CELLS)
    with h5py.File(tmp_path / "a.h5") as file:
        for feature, (col, row) in zip(file["feats"], CELLS, strict=True):
            assert np.array_equal(grid.features[row, col], feature.astype(np.float32))


def test_stamp_with_its_slide_or_resolution_lies_on_level_0(tmp_path, make_slide):
    path = stamp(tmp_path / "a.h5", um=100.0, tile_size_um=100.0)
    with open_slide(make_slide(1300, 1000, 0.5)) as slide:
        found = read_import(path, slide=slide)
    assert sorted(found.coords.tolist()) == sorted((CELLS * 200).tolist())
    assert found.settings.downsample == pytest.approx(200 / 224) and found.settings.mpp == 0.5
    given = read_import(path, ImportOptions(source_mpp=0.25))
    assert given.coords.max() == 3 * 400 and given.settings.mpp == 0.25


def test_hest(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["embeddings"], file["coords"] = random(len(CELLS), 768), CELLS * 224
        file["barcodes"] = np.array([[b"a"]] * len(CELLS))
    grid = imported(tmp_path / "a.h5", encoder="phikon", mag=20, tile_px=224, source_mag=20)
    assert grid.tissue.sum() == len(CELLS) and grid.tile_px == 224 and grid.source.mpp == 0.5
    with pytest.raises(InputError, match="does not say which encoder"):
        read_import(tmp_path / "a.h5")
