"""The embedding file: its layout, the grid that it holds, and what is refused."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers.embeddings import MeanColour, embed

from largegen.embeddings.file import EmbeddingFile, read_grid
from largegen.errors import EmbeddingFileError, InputError
from largegen.slides.slide import open_slide
from largegen.slides.tiles import tile_grid


def test_clam_and_trident_read_it(slide, tmp_path):
    """CLAM reads /features and /coords; TRIDENT also the attributes of /coords."""
    with h5py.File(embed(slide, tmp_path), "r") as file:
        features, coords = file["features"], file["coords"]
        assert features.dtype == np.float32 and features.shape == (len(coords), 6)
        assert coords.dtype == np.int64 and coords.shape[1] == 2
        assert features.chunks == (64, 6) and coords.chunks == (64, 2)
        assert (coords[:] >= 0).all() and (coords[:] < (slide.width, slide.height)).all()
        assert {key: coords.attrs[key] for key in coords.attrs} == {
            "patch_size": 100,
            "patch_size_level0": 100,
            "level0_magnification": 20,
            "target_magnification": 20,
            "overlap": 0,
            "name": "case",
            "savetodir": str(tmp_path),
            "level0_width": 1300,
            "level0_height": 1000,
        }
        assert file.attrs["complete"] and file.attrs["encoder_licence"] == "Apache-2.0"
        assert file.attrs["mpp"] == 0.5 and file.attrs["tissue_filter"] == "otsu"


def test_a_magnification_is_never_invented(make_slide, tmp_path):
    with open_slide(make_slide(600, 600, mpp=0.5, name="plain.tif")) as plain:
        path = embed(plain, tmp_path, mag=None)
    with h5py.File(path, "r") as file:
        assert not [key for key in file["coords"].attrs if "magnification" in key]


def test_a_scene_keeps_its_place(scene_path, tmp_path):
    with open_slide(scene_path) as scene:
        grid = read_grid(embed(scene, tmp_path, mag=None))
    assert grid.source.crs == "EPSG:26914" and grid.source.gsd_m == 5.0
    assert grid.source.transform[:6] == (5, 0, 485900, 0, -5, 5209245)
    assert not grid.tissue[:, 0].any() and grid.tissue[:, 1:].all()  # its first 100 columns hold no data
    assert "mpp" not in EmbeddingFile(tmp_path / f"{scene_path.stem}.h5").attrs


def test_the_grid_lies_as_the_slide_does(slide, tmp_path):
    grid = read_grid(embed(slide, tmp_path, downsample=2.0))
    assert grid.features.shape == (5, 6, 6) and grid.tissue.shape == (5, 6)
    row, col = np.argwhere(grid.tissue)[3]
    expected = MeanColour().encode(slide.read(col * 200, row * 200, 100, 100, 2.0)[None])[0]
    np.testing.assert_array_equal(grid.features[row, col], expected)
    glass = np.array([slide.background] * 16, np.uint8).reshape(1, 4, 4, 3)
    np.testing.assert_array_equal(grid.background, MeanColour().encode(glass)[0])
    assert (grid.features[~grid.tissue] == grid.background).all() and not grid.tissue.all()
    assert (grid.encoder, grid.licence, grid.tile_px) == ("mean-colour", "Apache-2.0", 100)


@pytest.mark.parametrize("downsample", [1.0, 1.002004, 0.83])
@pytest.mark.parametrize("overlap", [0, 30])
def test_every_tile_comes_back_to_its_place(slide, tmp_path, downsample, overlap):
    path = embed(slide, tmp_path, downsample=downsample, overlap_px=overlap, tissue_filter=False)
    grid = read_grid(path)
    laid = tile_grid(slide, downsample, 100, overlap)
    assert grid.tissue.shape == (laid.rows, laid.cols) and grid.tissue.all()
    np.testing.assert_array_equal(grid.features.reshape(-1, 6), EmbeddingFile(path).features())


def test_a_crop_knows_where_it_is(slide, tmp_path):
    grid = read_grid(embed(slide, tmp_path, downsample=2.0))
    crop = grid.crop(1, 2, 3, 4)
    np.testing.assert_array_equal(crop.features, grid.features[1:4, 2:6])
    assert crop.origin_xy == (400, 200)
    for outside in [(0, 0, 6, 1), (-1, 0, 1, 1), (0, 0, 0, 1)]:
        with pytest.raises(InputError, match="do not lie in a grid of 5x6"):
            grid.crop(*outside)


def edited(path: Path, target: Path, edit) -> Path:
    shutil.copy(path, target)
    with h5py.File(target, "r+") as file:
        edit(file)
    return target


def replace_dataset(name: str, make):
    def edit(file):
        data = make(file[name][:])
        del file[name]
        file[name] = data

    return edit


def shift(coords):
    return np.concatenate([coords[:1] + 37, coords[1:]])


def repeat(coords):
    return np.concatenate([coords[:1], coords[:-1]])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda f: f.__delitem__("features"), r"\(no /features\); `largegen import`"),
        (lambda f: f.__delitem__("coords"), r"\(no /coords\)"),
        (lambda f: f.attrs.update(format="other"), "not an embedding file of largegen; `largegen import`"),
        (lambda f: f.attrs.update(format_version=99), "newer largegen"),
        (lambda f: f.attrs.update(complete=False), "incomplete"),
        (lambda f: f.attrs.__delitem__("encoder"), "'encoder' is missing"),
        (replace_dataset("features", lambda a: a[:, :5]), "do not fit together"),
        (replace_dataset("coords", lambda a: a[:-1]), "do not fit together"),
        (replace_dataset("coords", shift), "do not form a grid"),
        (replace_dataset("coords", repeat), "do not form a grid"),
        (replace_dataset("coords", lambda a: a + 2000), "do not form a grid"),
    ],
)
def test_a_file_that_is_not_right_says_why(slide, tmp_path, edit, message):
    path = edited(embed(slide, tmp_path), tmp_path / "bad.h5", edit)
    with pytest.raises(EmbeddingFileError, match=message) as caught:
        read_grid(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


WRONG = {
    "region": (0, "x", [1, 2]),
    "downsample": ("x", 0.0, float("inf"), [1.0]),
    "tile_px": ("x", 0, 1.5),
    "overlap_px": (-1, 100_000),
    "mpp": ("x", [0.5]),
    "format_version": ("x", []),
    "width": ("x", [1]),
    "encoder": (1,),
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values])
def test_attributes_that_cannot_be_are_one_line(slide, tmp_path, key, value):
    path = embed(slide, tmp_path)
    with h5py.File(path, "r+") as file:
        file.attrs[key] = value
    with pytest.raises(EmbeddingFileError, match=r"embed the slide again|incomplete|do not fit together"):
        EmbeddingFile(path).grid()


def test_damaged_files_are_one_line(slide, tmp_path):
    content = embed(slide, tmp_path).read_bytes()
    bad = tmp_path / "bad.h5"
    for damage, message in [
        (None, "no such embedding file"),
        (b"", "an empty file"),
        (b"text", "not an HDF5 file"),
        (content[: len(content) // 2], "damaged"),
        (content[:700], "damaged"),
    ]:
        if damage is not None:
            bad.write_bytes(damage)
        with pytest.raises(EmbeddingFileError, match=message) as caught:
            read_grid(bad)
        assert "\n" not in str(caught.value)


def test_a_model_of_another_width_says_so(slide, tmp_path):
    path = embed(slide, tmp_path)
    assert read_grid(path, dim=6).features.shape[-1] == 6
    with pytest.raises(
        EmbeddingFileError, match=r"6-dimensional embeddings \(encoder mean-colour\), but the model needs 1024"
    ):
        read_grid(path, dim=1024)
