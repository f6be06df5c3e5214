"""Embedding files as AnnData."""

import numpy as np
import pytest
from helpers.priors import save_grid, two_kinds

from largegen.embeddings.anndata_file import write_anndata
from largegen.embeddings.file import EmbeddingFile
from largegen.errors import OutputError

anndata = pytest.importorskip("anndata", reason="largegen[anndata] is not installed")


@pytest.fixture
def path(tmp_path):
    tissue = np.array([[1, 0, 1], [0, 1, 1]], bool)
    return save_grid(tmp_path / "slide.h5", two_kinds(2, 3, 0), tissue)


def test_the_layout_is_that_of_lazyslides_feature_tables(path):
    file, table = EmbeddingFile(path), anndata.read_h5ad(write_anndata(path))
    np.testing.assert_array_equal(table.X, file.features())
    np.testing.assert_array_equal(table.obsm["spatial"], file.coords())
    assert list(table.obs_names) == ["0", "1", "2", "3"] and list(table.obs["tile_id"]) == [0, 1, 2, 3]
    assert list(table.obs["row"]) == [0, 0, 1, 1] and list(table.obs["col"]) == [0, 2, 1, 2]
    assert set(table.obs["library_id"]) == {"tiles"} and table.obs["library_id"].dtype == "category"
    attributes = {"region": "tiles", "region_key": "library_id", "instance_key": "tile_id"}
    assert dict(table.uns["spatialdata_attrs"]) == attributes


def test_one_of_the_same_embeddings_is_kept_and_another_refused(path):
    out = write_anndata(path)
    before = out.stat().st_mtime_ns
    assert write_anndata(path) == out and out.stat().st_mtime_ns == before
    save_grid(path, two_kinds(2, 2, 1))
    with pytest.raises(OutputError, match="not of these embeddings"):
        write_anndata(path)
    assert anndata.read_h5ad(write_anndata(path, overwrite=True)).n_obs == 4
    out.write_text("a file of somebody else")
    with pytest.raises(OutputError, match="none of largegen's"):
        write_anndata(path)
