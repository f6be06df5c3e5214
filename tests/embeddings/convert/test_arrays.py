"""Arrays in files of other projects come to the grid they mean, and nothing in them is run."""

import collections
import pickle
from pathlib import Path

import numpy as np
import pytest
from helpers.embeddings import GOOD, imported, random, save, save_h5

from largegen.errors import InputError

UNI = 1024


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
