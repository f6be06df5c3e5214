"""What a model knows of the embeddings that it was trained on."""

import pytest
import torch

from largegen.errors import ModelError
from largegen.models.known_embeddings import KnownEmbeddings, know_embeddings


def cloud(count, dim=16, away=0.0, seed=0):
    """Embeddings around one direction, or around another that is `away` from it."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.zeros(dim)
    centre[0], centre[1] = 10.0, away
    return centre + torch.randn(count, dim, generator=generator)


def test_embeddings_like_those_of_training_are_known():
    known = know_embeddings(cloud(2000))
    assert known.unlike(cloud(1000, seed=1)) < 20


def test_embeddings_of_another_kind_are_not():
    known = know_embeddings(cloud(2000))
    assert known.unlike(cloud(1000, away=30.0, seed=1)) == 1000


def test_lengths_do_not_matter():
    known = know_embeddings(cloud(2000))
    assert known.distances(7 * cloud(50)) == pytest.approx(known.distances(cloud(50)), rel=1e-4)


def test_a_thousandth_of_the_training_embeddings_lies_beyond_the_limit():
    training = cloud(4000)
    assert know_embeddings(training).unlike(training) == 4


def test_saved_and_loaded_they_are_the_same(tmp_path):
    known = know_embeddings(cloud(500))
    known.save(tmp_path / "known.safetensors")
    again = KnownEmbeddings.load(tmp_path / "known.safetensors")
    assert torch.equal(again.distances(cloud(20)), known.distances(cloud(20)))


def test_a_model_may_have_none(tmp_path):
    assert KnownEmbeddings.load(tmp_path / "known.safetensors") is None


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "known.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ModelError, match=r"known\.safetensors: damaged"):
        KnownEmbeddings.load(tmp_path / "known.safetensors")
