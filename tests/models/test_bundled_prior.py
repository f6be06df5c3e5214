"""The priors of the bundled models: small, of the models' own encoder, and their grids are what was asked for."""

import json

import numpy as np
import pytest
import torch

from largegen.cli import run
from largegen.models.directory import BUNDLED
from largegen.models.grid_prior import load_prior
from largegen.models.known_embeddings import UNLIKE_SHARE
from largegen.models.model import load_model
from largegen.sampling.imagine import sample_cells
from largegen.sampling.imagined import ImaginedOptions
from largegen.sampling.settings import Imagining

FEW = 10  # steps


def imagine(prior, **request) -> np.ndarray:
    """The tissue's embeddings (n, D) of a window."""
    side = prior.config.window
    features, tissue = prior.from_canvas(sample_cells(prior, side, side, Imagining(prior_steps=FEW, **request), 0)[0])
    return features[tissue].numpy()


@pytest.fixture(scope="module", params=["tissue", "aerial"])
def bundled(request):
    """Name, model and prior."""
    model = load_model(request.param, "cpu")
    return request.param, model, load_prior(model.directory / "prior", "cpu")


def test_they_are_small_free_and_of_the_models_encoder(bundled):
    name, model, prior = bundled
    files = [path for path in (BUNDLED[name] / "prior").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 8e6
    assert prior.info.encoder_fingerprint == model.info.encoder_fingerprint and prior.info.tile_px == model.tile_px
    assert prior.info.licence == "Apache-2.0" and prior.config.text_licence == "Apache-2.0"
    assert {slide.name for slide in prior.info.trained_on} <= {slide.name for slide in model.info.trained_on}
    card = (BUNDLED[name] / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "## Grid prior" in card and all(label in card for label in prior.config.labels)


def test_what_they_invent_is_like_what_the_model_knows(bundled):
    _, model, prior = bundled
    for label in (None, *list(prior.config.labels)[:2]):
        features = torch.from_numpy(imagine(prior, label=label))
        assert len(features) and model.known.unlike(features) < UNLIKE_SHARE * len(features)


@pytest.mark.parametrize(
    ("name", "one", "other"), [("tissue", "adipose tissue", "lymph node"), ("aerial", "forest", "town")]
)
def test_labels_are_told_apart(name, one, other):
    prior = load_prior(BUNDLED[name] / "prior", "cpu")
    first, second = (imagine(prior, label=label) for label in (one, other))
    apart = np.linalg.norm(first.mean(0) - second.mean(0))
    assert apart > 1.5 * max(part.std(0).max() for part in (first, second))


def test_a_label_alone_makes_an_image(tmp_path, capsys):
    out = tmp_path / "a.png"
    command = ["generate", "--label", "kidney", "--size", "256", "--steps", "2", "--device", "cpu", "--out", str(out)]
    assert run([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["width"] == 256
    assert json.loads(out.with_suffix(".png.json").read_text())["imagined"]["prior"] == "tissue-prior"


@pytest.mark.parametrize(("label", "model"), [("town", "aerial"), ("liver", "tissue"), (None, "tissue")])
def test_the_label_says_which_model(label, model):
    assert ImaginedOptions(Imagining(label=label), 0, (256, 256)).choose_model("auto") == model
