"""The prior over grids: grids to canvases and back, conditions, its directory."""

import json

import numpy as np
import pytest
import torch
from helpers.priors import DIM, random_prior, save_prior, two_kinds

from largegen.errors import ModelError
from largegen.models.grid_prior import NO_LABEL, GridPrior, centred, load_prior
from largegen.models.storage import WEIGHTS


@pytest.fixture(scope="module")
def prior():
    return random_prior(vector_dim=4)


def fitted(components: int) -> tuple[GridPrior, torch.Tensor]:
    features = torch.from_numpy(two_kinds(40, 40, 1)) * torch.linspace(1, 3, DIM)
    prior = GridPrior(DIM, components, 8, 64, 1, 1)
    prior.fit(features.flatten(0, 1), torch.full((DIM,), 5.0))
    return prior, features


def test_components_are_white():
    prior, features = fitted(6)
    canvas = prior.to_canvas(features, torch.ones(40, 40, dtype=torch.bool))
    values = canvas[:-1].flatten(1)
    assert canvas.shape == (7, 40, 40) and (canvas[-1] == 1).all()
    assert torch.allclose(values.mean(1), torch.zeros(6), atol=1e-4)
    assert torch.allclose(torch.cov(values), torch.eye(6), atol=1e-3)


def test_a_grid_goes_to_a_canvas_and_back():
    prior, features = fitted(DIM)
    tissue = torch.from_numpy(np.random.default_rng(0).random((40, 40)) > 0.3)
    found, mask = prior.from_canvas(prior.to_canvas(features, tissue))
    assert mask.equal(tissue)
    assert torch.allclose(found[tissue], features[tissue], atol=1e-4)
    assert (found[~tissue] == 5).all()


def test_fewer_components_keep_the_most_of_the_variance():
    prior, features = fitted(4)
    everywhere = torch.ones(40, 40, dtype=torch.bool)
    lost = (prior.from_canvas(prior.to_canvas(features, everywhere))[0] - features).flatten(0, 1)
    variance = torch.linalg.eigvalsh(torch.cov(features.flatten(0, 1).T))
    assert lost.var(0).sum().item() == pytest.approx(variance[:-4].sum().item(), rel=1e-3)


def test_each_condition_changes_the_prediction(prior):
    def predict(label=NO_LABEL, vector=(0.0, 0.0, 0.0, 0.0)):
        condition = prior.condition(torch.tensor([0]), torch.tensor([label]), torch.tensor([vector]))
        return prior.eps(noisy, torch.tensor(500), condition)

    noisy = torch.randn(1, prior.channels, 8, 8)
    found = [predict(), predict(0), predict(1), predict(vector=(1.0, 0.0, 0.0, 0.0)), predict(0, (1.0, 0.0, 0.0, 0.0))]
    for number, one in enumerate(found):
        assert not any(torch.allclose(one, other, atol=1e-4) for other in found[:number])


def test_centred_vectors_have_length_one():
    found = centred(torch.randn(5, 4), torch.ones(4))
    assert torch.allclose(found.norm(dim=1), torch.ones(5))


def test_a_prior_is_read_as_it_was_written(prior, tmp_path):
    save_prior(tmp_path / "run" / "model", vector_dim=4)
    for directory in (tmp_path / "run", tmp_path / "run" / "model"):
        loaded = load_prior(directory, "cpu")
        assert loaded.info.encoder == "an-encoder" and list(loaded.config.labels) == ["kidney", "liver"]
        state = prior.state_dict()
        assert all(value.equal(state[name]) for name, value in loaded.state_dict().items())


def test_a_directory_without_a_prior(tmp_path):
    with pytest.raises(ModelError, match="no grid prior there; `largegen train-prior` makes one"):
        load_prior(tmp_path)


@pytest.mark.parametrize("damage", ["weights", "config"])
def test_a_damaged_prior_is_one_line(tmp_path, damage):
    path = save_prior(tmp_path / "prior")
    if damage == "weights":
        (path / WEIGHTS).write_bytes((path / WEIGHTS).read_bytes()[:1000])
    else:
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(config | {"components": 9}, indent=2))
    with pytest.raises(ModelError) as raised:
        load_prior(path)
    assert "\n" not in str(raised.value)
