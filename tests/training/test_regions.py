"""Regions at several levels: where they lie, what they show, the embeddings under them, and how both are turned."""

import numpy as np
import pytest
import torch

from largegen.embeddings.embed import embed_slide
from largegen.embeddings.file import EmbeddingFile
from largegen.embeddings.options import EmbedOptions
from largegen.errors import InputError
from largegen.slides.slide import open_slide
from largegen.training.regions import EmbeddingGrids, find_regions, split
from largegen.training.sampler import orient

TILE = 64


class MeanColour:
    """An encoder whose embedding is a tile's mean colour: what a grid holds can be read off the image."""

    dim, dtype, fingerprint = 3, torch.float32, "mean"

    class spec:
        name, licence = "mean", "CC0-1.0"

    def encode(self, tiles):
        return tiles.mean((1, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def slide(make_slide):
    with open_slide(make_slide(900, 700, name="regions.tif")) as slide:
        yield slide


@pytest.fixture(scope="module", params=[0, 32])
def file(request, slide, tmp_path_factory):
    folder = tmp_path_factory.mktemp("embeddings")
    options = EmbedOptions(TILE, overlap_px=request.param)
    return EmbeddingFile(embed_slide(slide, MeanColour(), folder, options, downsample=1.0, progress=False))


def test_at_the_base_the_regions_are_the_files_tiles(file, slide):
    regions = find_regions(file, 0)
    assert [regions.xy(n) for n in range(len(regions.cells))] == [tuple(xy) for xy in file.coords().tolist()]
    grids = EmbeddingGrids(file)
    assert np.array_equal(np.stack([grids.under(regions, n)[0, 0] for n in range(file.count)]), file.features())
    assert np.array_equal(regions.image(3, slide), slide.read(*file.coords()[3].tolist(), TILE, TILE))


@pytest.mark.parametrize("level", [1, 2, 3])
def test_the_grid_is_that_of_the_images_tiles(file, slide, level):
    regions, grids = find_regions(file, level), EmbeddingGrids(file)
    assert len(regions.cells) > 3
    part = TILE // 2**level
    for n in range(0, len(regions.cells), max(1, len(regions.cells) // 6)):
        grid, image = grids.under(regions, n), regions.image(n, slide)
        shown = image.reshape(2**level, part, 2**level, part, 3).mean((1, 3))
        held = (grid != file.background).any(-1)
        assert held.mean() >= 0.25
        assert np.abs(grid - shown)[held].mean() < 3


@pytest.mark.parametrize("k", range(8))
def test_image_and_grid_are_turned_alike(file, slide, k):
    regions = find_regions(file, 2)
    n = len(regions.cells) // 2
    grid, image = orient(EmbeddingGrids(file).under(regions, n), k), orient(regions.image(n, slide), k)
    held = (grid != file.background).any(-1)
    shown = image.reshape(4, TILE // 4, 4, TILE // 4, 3).mean((1, 3))
    assert np.abs(grid - shown)[held].mean() < 3
    others = [orient(EmbeddingGrids(file).under(regions, n), j) for j in range(8) if j != k]
    assert all(np.abs(other - shown).mean() > np.abs(grid - shown).mean() for other in others)


def test_regions_may_stick_out_up_to_the_limit(file, slide):
    some, more = find_regions(file, 3, 0.6), find_regions(file, 3, 0.2)
    assert 0 < len(some.cells) < len(more.cells)
    x, y = more.xy(0)
    assert x < 0 or y < 0
    grids = EmbeddingGrids(file)
    for regions, limit in ((some, 0.6), (more, 0.2)):
        held = [(grids.under(regions, n) != file.background).any(-1).mean() for n in range(len(regions.cells))]
        assert min(held) >= limit
    assert np.abs(regions.image(0, slide)[0, 0].astype(int) - slide.background).max() <= 2


def test_tiles_that_cannot_be_laid_side_by_side(slide, tmp_path):
    path = embed_slide(slide, MeanColour(), tmp_path, EmbedOptions(TILE, 24), downsample=1.0, progress=False)
    with pytest.raises(InputError, match="cannot be laid side by side"):
        find_regions(EmbeddingFile(path), 1)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_some_regions_are_whole_blocks_at_every_level(make_slide, tmp_path, level):
    with open_slide(make_slide(2600, 2300, name=f"blocks{level}.tif")) as large:
        made = embed_slide(large, MeanColour(), tmp_path, EmbedOptions(128), downsample=1.0, progress=False)
    regions = find_regions(EmbeddingFile(made), level)
    xy = np.array([regions.xy(n) for n in range(len(regions.cells))])
    assert (xy % (128 * 2**level) == 0).all(1).any()


def test_training_and_validation_share_no_pixel_of_a_level(file):
    regions = find_regions(file, 1)
    training, validation = split(regions, 0.3, 0)
    assert len(training) and len(validation) and not set(training) & set(validation)
    side = TILE * 2
    for a in validation[:5]:
        apart = np.abs(np.subtract([regions.xy(b) for b in training], regions.xy(a))).max(1)
        assert apart.min() >= side
    assert len(split(regions, 0.0, 0)[0]) == len(regions.cells)
