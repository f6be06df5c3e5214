"""Tiles of other projects come to their places on the slide, with all that is known of them."""

import h5py
import numpy as np
import pytest
from helpers.embeddings import Tiny, embed, imported, random, save, save_h5, stripped
from helpers.models import WIDTH

from largegen.embeddings.convert.convert import import_embeddings
from largegen.embeddings.convert.facts import ImportOptions
from largegen.embeddings.file import EmbeddingFile, read_grid
from largegen.errors import InputError

UNI = 1024


@pytest.mark.parametrize("trident", [True, False])
@pytest.mark.parametrize("options", [{}, {"downsample": 2.0}, {"downsample": 1.002004}, {"overlap_px": 30}])
def test_our_own_files_come_back(slide, tmp_path, phikon, trident, options, caplog):
    own = embed(slide, tmp_path, Tiny(), **options)
    path = stripped(own, tmp_path / "theirs.h5", attributes=trident)
    given = {} if trident else {"tile_px": 100, "overlap_px": options.get("overlap_px")}
    found, expected = imported(path, slide=slide, **given, **phikon), read_grid(own)
    np.testing.assert_array_equal(found.tissue, expected.tissue)
    np.testing.assert_array_equal(found.features[found.tissue], expected.features[expected.tissue])
    assert found.downsample == pytest.approx(expected.downsample, rel=1e-4)
    assert (found.tile_px, found.overlap_px, found.origin_xy) == (100, expected.overlap_px, (0, 0))
    assert found.source == expected.source
    np.testing.assert_allclose(found.background, found.features[found.tissue].mean(0), rtol=1e-5)
    assert "tiles are missing" in caplog.text and "`encoder_weights`" in caplog.text


def test_tridents_attributes_stand_for_the_slide(slide, tmp_path, phikon):
    path = stripped(embed(slide, tmp_path, Tiny()), tmp_path / "theirs.h5", attributes=True)
    with h5py.File(path, "r+") as file:
        features = file["features"][:]
        del file["features"]
        file["features"] = features[None]  # as TRIDENT once wrote them
    file = EmbeddingFile(import_embeddings(path, tmp_path / "out", ImportOptions(**phikon)))
    s = file.settings
    assert (s.source_width, s.source_height, s.mpp, s.source_kind) == (1300, 1000, 0.5, "slide")
    assert (s.encoder_fingerprint, s.tissue_filter, s.precision) == ("", "unknown", "unknown")
    assert s.region == (0, 0, 10, 13) and file.coords_attrs["target_magnification"] == 20
    for wrong, word in [
        ({"tile_px": 256}, "`tile_px` 256"),
        ({"overlap_px": 3}, "`overlap_px` 3"),
        ({"mag": 10}, "`mag`"),
    ]:
        with pytest.raises(InputError, match=word):
            imported(path, **wrong, **phikon)


def test_tridents_folder_names_the_encoder(tmp_path):
    (tmp_path / "features_uni_v1").mkdir()
    coords = np.array([[0, 0], [512, 0], [0, 512], [512, 512]])
    path = save_h5(
        tmp_path / "features_uni_v1" / "a.h5",
        {"patch_size": 256, "patch_size_level0": 512, "overlap": 0, "level0_magnification": 40},
        features=random(4, UNI),
        coords=coords,
    )
    found = imported(path)
    assert (found.encoder, found.downsample, found.source.mpp) == ("uni_v1", 2, 0.25)
    assert found.tissue.shape == (2, 2) and found.source.width == 1024


def test_clams_tiles_begin_anywhere(tmp_path, phikon, caplog):
    """CLAM's grid begins at the tissue's corner; its patch_size is in pixels of patch_level."""
    corners = np.array([(1037 + 1024 * c, 2051 + 1024 * r) for r in range(3) for c in range(4) if (r, c) != (1, 1)])
    attrs = {"patch_size": 256, "patch_level": 1, "downsample": (4.0, 4.0), "level_dim": (3000, 3000)}
    features = random(11, 768)
    for said, given in [(attrs, {}), ({}, {}), ({}, {"mag": 10, "source_mag": 40})]:
        path = save_h5(tmp_path / "clam.h5", said, features=features, coords=corners)
        found = imported(path, **given, **phikon)
        file = EmbeddingFile(tmp_path / "out" / "clam.h5")
        assert (found.tile_px, found.downsample, found.overlap_px) == (256, 4, 0)
        assert found.origin_xy == (1037 % 1024, 2051 % 1024) and found.tissue.sum() == 11
        np.testing.assert_array_equal(file.coords(), corners)
        assert (found.features[3, 1] == features[4]).all() and not found.tissue[3, 2]
        assert found.source.mpp == (0.25 if given else None)
    assert "off one grid" not in caplog.text


def test_clams_pieces_of_tissue_are_moved_to_one_grid(tmp_path, phikon, caplog):
    def piece(x, y, n):
        return [(x + 256 * c, y + 256 * r) for r in range(n) for c in range(n)]

    corners = np.array([*piece(512, 256, 5), *piece(4000, 3000, 3)])
    features = random(34, 768)
    found = imported(save_h5(tmp_path / "two.h5", features=features, coords=corners), **phikon)
    assert found.tissue.sum() == 34 and found.origin_xy == (0, 0)
    assert (found.features[1, 2] == features[0]).all() and (found.features[12, 16] == features[25]).all()
    assert "of its 34 tiles, 0 were left out" in caplog.text and "up to 96 level-0 px off one grid" in caplog.text


def test_a_tile_twice_is_taken_once(tmp_path, phikon, caplog):
    corners = np.array([(256 * c, 256 * r) for r in range(4) for c in range(4)])
    corners, features = np.concatenate([corners, corners[5:6]]), random(17, 768)
    found = imported(save_h5(tmp_path / "twice.h5", features=features, coords=corners), **phikon)
    assert (found.features.reshape(16, 768) == features[:16]).all() and "1 were left out" in caplog.text


def test_one_tile_keeps_the_size_that_its_file_says(tmp_path, phikon):
    attrs = {"patch_size": 256, "patch_size_level0": 512, "overlap": 0}
    path = save_h5(tmp_path / "one.h5", attrs, features=random(1, 768), coords=np.array([[520, 1040]]))
    found = imported(path, **phikon)
    assert (found.downsample, found.origin_xy) == (2, (8, 16)) and found.tissue.tolist() == [[0, 0], [0, 0], [0, 1]]


def test_the_background_is_computed_where_weights_are_at_hand(tmp_path, tiny, caplog):
    from largegen.models.encoder import load_encoder

    coords = np.array([[0, 0], [64, 0], [128, 64]])
    path = save_h5(tmp_path / "a.h5", features=random(3, WIDTH), coords=coords)
    found = imported(path, encoder=tiny, tile_px=64)
    glass = load_encoder(tiny, device="cpu").encode(np.full((1, 64, 64, 3), 255, np.uint8))[0]
    np.testing.assert_allclose(found.background, glass, rtol=1e-4, atol=1e-5)
    assert (found.features[1, 0] == found.background).all() and "missing" not in caplog.text


def test_a_slide_gives_name_size_and_place(slide, tmp_path, phikon):
    path = save(tmp_path / "0.npy", random(3, 5, 768))
    found = imported(path, slide=slide, mag=10, tile_px=100, **phikon)
    assert (tmp_path / "out" / "case.h5").exists() and found.downsample == 2
    assert (found.source.width, found.source.mpp) == (1300, 0.5)
    with pytest.raises(InputError, match="give `mag`"):
        imported(path, slide=slide, **phikon)
    with pytest.raises(InputError, match="off a slide of 1300x1000"):
        imported(path, slide=slide, mag=5, tile_px=256, **phikon)
