"""Single patches: what they depend on, and where they lie."""

import numpy as np
import pytest
import torch
from helpers.models import TILE_PX, WIDTH, few_steps, random_features

from largegen.conditioning.reference import SlideOnDemand, slide_reference
from largegen.embeddings.options import EmbedOptions
from largegen.sampling.patches import choose_places, grids_at, sample_patches
from largegen.slides.slide import open_slide


@pytest.fixture
def model(zoom_model):
    return zoom_model


def test_a_patch_depends_on_its_number_grid_and_level_but_not_on_how_many_there_are(model):
    grid = random_features(2)[None]
    alone = sample_patches(model, grid, 1, few_steps(model))
    three = sample_patches(model, torch.cat([grid, grid, grid.flip(-1)]), 1, few_steps(model, batch_size=2))
    coarser = sample_patches(model, grid, 2, few_steps(model))
    torch.testing.assert_close(three[:1], alone, atol=1e-4, rtol=1e-4)
    assert (three[1] - three[0]).abs().max() > 0.1 and (coarser - alone).abs().max() > 1e-3


def test_grids_reach_past_the_reference(model, slide_path, tmp_path):
    with open_slide(slide_path) as slide:
        options = EmbedOptions(model.tile_px, tissue_filter=False)
        reference = slide_reference(model, SlideOnDemand(slide, 1.0, options, cache=tmp_path))
        rows, cols = reference.tissue.shape
        few, grid = grids_at(reference, [(-1, cols - 1)], 1, TILE_PX)
        many, _ = grids_at(reference, [(-1, cols - 1)] * rows * cols, 1, TILE_PX)  # embeds all of the reference
    assert few.shape == (1, 2, 2, WIDTH)
    assert np.array_equal(few[0, 1, 0], grid.features[0, 0])
    for row, col in ((0, 0), (0, 1), (1, 1)):
        assert np.array_equal(few[0, row, col], grid.background)
    torch.testing.assert_close(many[:1], few, atol=1e-4, rtol=1e-4)


def test_regions_are_drawn_where_there_is_tissue():
    tissue = np.zeros((9, 12), bool)
    tissue[2:6, 7:11] = True
    places = choose_places(tissue, 1, 40, seed=0)
    held = [tissue[max(r, 0) : r + 2, max(c, 0) : c + 2].sum() for r, c in places]
    assert min(held) >= 1 and len(set(places)) == 25
    assert places == choose_places(tissue, 1, 40, seed=0) != choose_places(tissue, 1, 40, seed=1)
    assert choose_places(tissue[:2], 0, 3, seed=0)  # no tissue at all: anywhere
