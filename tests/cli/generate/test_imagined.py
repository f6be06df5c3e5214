"""Images without a reference: of anything, or of a label."""

import json
import shutil
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
from helpers.commands import assert_one_line
from helpers.models import WIDTH
from helpers.priors import save_prior
from PIL import Image

from largegen.cli import run
from largegen.models.model import load_model
from largegen.sampling.imagined import ImaginedOptions
from largegen.sampling.settings import Imagining
from largegen.slides.image_info import read_provenance


def prior_for(model, directory, scales=(0.5,), **changes):
    """A prior with random weights for the embeddings of a model."""
    info = load_model(model, "cpu", "fp32").info
    about = {"licence": "CC0-1.0", "trained_on": [], "name": "a-prior", **changes}
    return save_prior(directory, embedding_dim=WIDTH, scales=list(scales), info=info.as_dict() | about)


@pytest.fixture(scope="module")
def own_prior(model, tmp_path_factory):
    """The model with a prior of its own."""
    path = shutil.copytree(model, tmp_path_factory.mktemp("own") / "model")
    prior_for(model, path / "prior")
    return path


@pytest.fixture
def imagine(generate, own_prior):
    return lambda *more, **options: generate("--model", own_prior, "--prior-steps", 3, *more, ref=None, **options)


def test_an_image_of_a_label_says_so(imagine, tmp_path):
    code, _, err = imagine("--label", "kidney", "--seed", 3, size=256)
    assert code == 0, err
    assert Image.open(tmp_path / "a.png").size == (256, 256)
    record = read_provenance(tmp_path / "a.png")
    assert len(record["imagined"].pop("prior_fingerprint")) == 8
    assert record["imagined"] == {
        **{"prior": "a-prior", "prior_licence": "CC0-1.0", "seed": 3, "label": "kidney", "guidance": 4.0, "steps": 3}
    }
    assert not {"reference", "reference_xy"} & record.keys() and record["mpp"] == 0.5
    assert "imagined: kidney" in record["description"]


def test_both_steps_are_those_of_imagine_and_generate(imagine, generate, own_prior, tmp_path):
    assert imagine("--label", "liver", size=192, out="whole.png")[0] == 0
    command = ["imagine", "--model", own_prior, "--label", "liver", "--size", 192, "--steps", 3, "--device", "cpu"]
    assert run([*map(str, command), "--out", str(tmp_path / "grid.h5")]) == 0
    assert generate("--embeddings", tmp_path / "grid.h5", ref=None, size=192, out="parts.png")[0] == 0
    whole, parts = (np.array(Image.open(tmp_path / name)) for name in ("whole.png", "parts.png"))
    assert np.array_equal(whole, parts)
    assert read_provenance(tmp_path / "parts.png")["imagined"]["label"] == "liver"


def test_a_dry_run_samples_no_grid(imagine, monkeypatch, tmp_path):
    monkeypatch.setattr("largegen.sampling.imagine.sample_cells", None)
    code, out, err = imagine("--label", "kidney", "--dry-run")
    assert code == 0, err
    found = json.loads(out)
    assert found["tiles"] == found["tissue_tiles"] == 4 and found["denoiser_calls"] > 0
    assert not list(tmp_path.glob("*.png"))
    code, _, err = imagine("-q", "--label", "spleen", "--dry-run")
    assert code == 2 and "knows kidney, liver" in err


def test_tiles_of_another_size_than_the_models_are_said(model, tmp_path, caplog):
    request = Imagining(prior=prior_for(model, tmp_path / "coarse", scales=[1.0]))
    network = load_model(model, "cpu", "fp32")
    network.info = replace(network.info, mpp=0.5)
    with ExitStack() as stack:
        ImaginedOptions(request, 0, (128, 128), outline=True).open(stack, network)
    assert "its tiles have 1 um/px, but model tiny was trained with 0.5 um/px" in caplog.text


def test_neither_label_nor_prompt_is_needed(imagine, tmp_path):
    assert imagine(out="a.png")[0] == imagine("--seed", 1, out="b.png")[0] == 0
    first, second = (np.array(Image.open(tmp_path / name)) for name in ("a.png", "b.png"))
    assert not np.array_equal(first, second)


def test_a_prior_that_is_not_the_models(imagine, model, tmp_path):
    other = prior_for(model, tmp_path / "other", encoder_fingerprint="123", encoder="another")
    code, _, err = imagine("-q", "--prior", other)
    assert code == 2
    assert_one_line(err, "another (123)", "was trained with")


def test_info_says_what_can_be_asked(own_prior, capfd):
    assert run(["info", str(own_prior), "--json"]) == 0
    own = json.loads(capfd.readouterr().out)["prior"]
    assert own["labels"] == ["kidney", "liver"] and own["licence"] == "CC0-1.0" and own["weights_mb"] > 0
    assert run(["info", str(own_prior / "prior"), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["what"] == "grid prior" and found["labels"] == ["kidney", "liver"] and found["licence"] == "CC0-1.0"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--label", "spleen"], ["--label spleen", "kidney, liver"]),
        (["--prompt", "fat"], ["--prompt", "takes no text"]),
        (["--prior", "nowhere"], ["no grid prior there"]),
        (["--mag", "20"], ["give --ref SLIDE or --embeddings FILE.h5"]),
        (["--size", "full"], ["--size full", "give N or WxH"]),
        (["--size", "30"], ["--size 30x30"]),
    ],
)
def test_wrong_input_is_one_line(imagine, more, words):
    code, out, err = imagine("-q", *more)
    assert code == 2 and not out
    assert_one_line(err, *words)


def test_a_model_without_a_prior(generate):
    code, _, err = generate("-q", "--label", "kidney", ref=None)
    assert code == 2
    assert_one_line(err, "give --ref SLIDE or --embeddings FILE.h5", "has no prior of its own", "--prior")


def test_a_label_beside_a_reference(fails):
    code, err = fails("--label", "kidney")
    assert code == 2 and "--label, --prompt and --prior are for images without --ref or --embeddings" in err
