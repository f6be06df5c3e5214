"""Grids sampled from a prior: of any size, keyed by seed and place, with conditions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.priors import DIM, imagined, random_prior

from largegen.embeddings.file import EmbeddingFile, read_grid
from largegen.errors import InputError, OutputError
from largegen.sampling.imagine import condition_of, grid_settings, imagine_file, imagine_grid, sample_cells, scale_at
from largegen.sampling.settings import Imagining

FEW = Imagining(prior_steps=4)


@pytest.fixture(scope="module")
def prior():
    return random_prior()


def cells(prior, rows, cols, seed=0, **changes):
    return sample_cells(prior, rows, cols, replace(FEW, **changes), seed)


@pytest.mark.parametrize("size", [(8, 8), (3, 5), (20, 13), (1, 30)])
def test_grids_have_any_size(prior, size):
    found = cells(prior, *size)
    assert found.shape == (1, prior.channels, *size) and found.isfinite().all()


def test_the_seed_decides(prior):
    assert cells(prior, 9, 9).equal(cells(prior, 9, 9))
    assert not cells(prior, 9, 9).equal(cells(prior, 9, 9, seed=1))


def test_a_small_grid_is_the_middle_of_a_window(prior):
    assert cells(prior, 4, 6).equal(cells(prior, 8, 8)[..., 2:6, 1:7])


def test_guidance_0_ignores_the_label_and_1_is_none(prior):
    free = cells(prior, 8, 8)
    assert torch.allclose(cells(prior, 8, 8, label="liver", prior_guidance=0.0), free)
    plain, strong = (cells(prior, 8, 8, label="liver", prior_guidance=value) for value in (1.0, 4.0))
    assert not torch.allclose(plain, free) and not torch.allclose(plain, strong)


def test_glass_is_the_background(prior):
    settings = grid_settings(prior, FEW, 20, 20, 0)
    grid = imagine_grid(prior, FEW, settings, 0)
    assert 0 < grid.tissue.mean() < 1
    assert (grid.features[~grid.tissue] == 5).all() and (grid.features[grid.tissue] != 5).all()


def test_the_file_is_an_embedding_file_that_says_what_it_is(prior, tmp_path):
    request = replace(FEW, label="kidney")
    imagine_file(prior, request, (700, 640), tmp_path / "a.h5", 3)
    file = EmbeddingFile(tmp_path / "a.h5")
    assert file.settings.region == (0, 0, 10, 11) and file.settings.encoder_fingerprint == "abc"
    assert file.coords_attrs["target_magnification"] == 20
    said = imagined(file.settings)
    assert len(said.pop("prior_fingerprint")) == 8
    assert said == {
        **{"prior": "a-prior", "prior_licence": "CC0-1.0", "seed": 3, "label": "kidney", "guidance": 4.0, "steps": 4}
    }
    grid, again = read_grid(tmp_path / "a.h5", DIM), imagine_grid(prior, request, file.settings, 3)
    assert np.array_equal(grid.features, again.features) and np.array_equal(grid.tissue, again.tissue)


def test_a_file_that_is_there_is_kept_where_it_is_the_same(prior, tmp_path):
    path = tmp_path / "a.h5"
    imagine_file(prior, FEW, (200, 200), path, 3)
    made = path.read_bytes()
    imagine_file(prior, FEW, (200, 200), path, 3)
    assert path.read_bytes() == made and list(tmp_path.iterdir()) == [path]
    for other, seed in ((prior, 4), (random_prior(seed=1), 3)):
        with pytest.raises(OutputError, match="exists with other settings"):
            imagine_file(other, FEW, (200, 200), path, seed)
    path.write_text("notes")
    with pytest.raises(OutputError, match="not an HDF5 file; use `overwrite`"):
        imagine_file(prior, FEW, (200, 200), path, 3)
    assert path.read_text() == "notes"


@pytest.mark.parametrize(
    ("prior_has", "asked", "message"),
    [
        ({}, {"label": "spleen"}, "`label` spleen: prior a-prior knows kidney, liver"),
        ({"labels": []}, {"label": "spleen"}, "`label` spleen: prior a-prior knows none"),
        ({}, {"prompt": "fat"}, "`prompt`: prior a-prior takes no text; it knows labels only: kidney, liver"),
        ({"labels": []}, {"prompt": "fat"}, "takes no text; it knows no conditions"),
    ],
)
def test_conditions_that_a_prior_does_not_know_are_one_line(prior_has, asked, message):
    with pytest.raises(InputError, match=message):
        condition_of(random_prior(**prior_has), replace(FEW, **asked))


def test_scales_are_found_by_magnification():
    prior = random_prior(scales=[0.5, 1.01])
    assert [scale_at(prior, mag) for mag in (None, 20, 10)] == [0, 0, 1]
    with pytest.raises(InputError, match=r"`mag` 5: the prior knows 20x, 9\.9x"):
        scale_at(prior, 5)
