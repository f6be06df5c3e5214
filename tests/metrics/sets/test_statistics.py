"""Files of statistics: what they keep, and what is refused instead of being compared."""

import numpy as np
import pytest

from largegen.errors import InputError, OutputError
from largegen.metrics.distances.frechet import gaussian_of
from largegen.metrics.sets.statistics import Statistics, check_same_key, load_statistics, save_statistics

KEY = {"network": "inception", "size_px": 256, "mpp": 0.5, "mean": [0.5, 0.4, 0.3]}


@pytest.fixture
def statistics() -> Statistics:
    features = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    return Statistics(gaussian_of(features), features[:10], dict(KEY), {"paths": ["µ.svs"], "count": 30, "seed": 0})


@pytest.fixture
def other() -> Statistics:
    """Of the same images in another space."""
    features = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
    return Statistics(gaussian_of(features), features, KEY | {"network": "clip"}, {"paths": ["µ.svs"]})


@pytest.fixture
def path(statistics, other, tmp_path):
    save_statistics(tmp_path / "real.npz", [statistics, other])
    return tmp_path / "real.npz"


def test_what_is_saved_is_loaded(statistics, other, path):
    found, second = load_statistics(path)
    assert (second.key, second.gaussian.count) == (other.key, 20)
    np.testing.assert_array_equal(second.features, other.features)
    assert found.gaussian.count == 30
    np.testing.assert_array_equal(found.gaussian.mean, statistics.gaussian.mean)
    np.testing.assert_array_equal(found.gaussian.covariance, statistics.gaussian.covariance)
    np.testing.assert_array_equal(found.features, statistics.features)
    assert found.features.dtype == np.float32
    assert (found.key, found.source) == (statistics.key, statistics.source)


def test_the_file_has_the_name_it_was_given(statistics, tmp_path):
    save_statistics(tmp_path / "real.statistics", [statistics])
    assert [file.name for file in tmp_path.iterdir()] == ["real.statistics"]
    assert load_statistics(tmp_path / "real.statistics")[0].source == statistics.source


def test_a_failed_write_leaves_what_was_there(statistics, path, monkeypatch):
    def fail(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    before = path.read_bytes()
    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OutputError, match="no space left"):
        save_statistics(path, [statistics])
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def rewritten(path, drop=(), **changed):
    """The file with some of its arrays changed or left out."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file if name not in drop}
    np.savez(path, **arrays | changed)
    return path


def test_other_files_are_refused(path, tmp_path):
    text, array, other, clean = (tmp_path / name for name in ("a.npz", "b.npy", "c.npz", "d.npz"))
    text.write_text("mu sigma")
    np.save(array, np.zeros(3))
    np.savez(other, a=1)
    np.savez(clean, mu=np.zeros(3), sigma=np.eye(3))
    for file, what in (
        (tmp_path / "none.npz", "no such file"),
        (text, "not an .npz file"),
        (array, "not an .npz file"),
        (other, "not a file of largegen's statistics"),
        (clean, "clean-fid's statistics do not say what they were made with"),
    ):
        with pytest.raises(InputError, match=what) as error:
            load_statistics(file)
        assert str(error.value).startswith(f"{file}: ") and "\n" not in str(error.value)


def test_damaged_files_are_refused(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not all of one"):
        load_statistics(path)
    at = whole.index(b"NUMPY") + 200  # in the content of an array
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(InputError, match="damaged"):
        load_statistics(path)


def test_other_versions_and_missing_arrays_are_refused(path):
    with pytest.raises(InputError, match="lacks 0/mean, 1/key"):
        load_statistics(rewritten(path, drop=("0/mean", "1/key")))
    with pytest.raises(InputError, match="version 2, and this largegen reads 1"):
        load_statistics(rewritten(path, version=2))


def test_arrays_of_different_widths_are_refused(path):
    with pytest.raises(InputError, match="different widths"):
        load_statistics(rewritten(path, **{"0/mean": np.zeros(5)}))


def test_no_pickle_is_loaded(path):
    with pytest.raises(InputError, match="damaged: Object arrays"):
        load_statistics(rewritten(path, **{"1/key": np.array([{}], dtype=object)}))


def test_equal_keys_pass_whatever_made_them():
    check_same_key(KEY, dict(reversed(KEY.items())))
    check_same_key(KEY, KEY | {"mean": (0.5, 0.4, 0.3)})  # a file gives a list back


def test_every_difference_of_keys_is_named():
    with pytest.raises(InputError) as error:
        check_same_key(KEY, {"network": "clip", "size_px": 512, "mean": KEY["mean"], "crop": True})
    text = str(error.value)
    for difference in (
        '"inception" in one and "clip"',
        "size_px is 256 in one and 512",
        "mpp is 0.5 in one and absent",
        "crop is absent in one and true",
    ):
        assert difference in text
    assert "mean" not in text and "\n" not in text
