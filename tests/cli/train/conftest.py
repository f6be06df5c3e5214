"""The chain train-vae, train-encoder, embed, train on a small slide: each run made once, for all tests to read."""

import pytest
from helpers.training import forget_accelerate
from helpers.training_commands import LOOP, words

from largegen.cli import run


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    yield
    forget_accelerate()


@pytest.fixture(scope="session")
def slide(make_slide):
    return make_slide(1600, 1300, name="a.tif")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def vae(slide, folder):
    out = folder / "vae"
    command = words("train-vae --preset tiny --steps 40 --batch-size 8 --learning-rate 2e-3 --validation 0.2", slide)
    assert run([*command, *LOOP, *words("--validate-every 40 --out", out)]) == 0
    return out


@pytest.fixture(scope="session")
def encoder(slide, folder):
    out = folder / "encoder"
    sizes = words("--architecture test_resnet --width 16 --tile-px 64 --input-px 32 --licence CC0-1.0")
    assert run([*words("train-encoder --steps 3 --batch-size 8", slide, "--out", out), *sizes, *LOOP]) == 0
    return out


@pytest.fixture(scope="session")
def embeddings(slide, encoder, folder):
    command = words("embed", slide, "--out", folder / "embeddings", "--encoder", f"local-dir:{encoder / 'model'}")
    assert run([*command, *words("--tile-px 64 --device cpu")]) == 0
    return folder / "embeddings"


@pytest.fixture(scope="session")
def train(embeddings, vae, folder):
    """The arguments of a short `largegen train`; options given twice are those of the second."""
    small = words("--preset tiny --turns 2 --steps 4 --batch-size 8 --checkpoint-every 2 --validate-every 4")
    shared = ["--cache", folder / "latents", "--vae", vae, "--validation", "0.2"]
    return lambda *more: ["train", str(embeddings), *map(str, (*shared, *small, *LOOP, *more))]


@pytest.fixture(scope="session")
def short(train, folder):
    """The run directory of a short training."""
    assert run(train("--out", folder / "short")) == 0
    return folder / "short"


@pytest.fixture(scope="session")
def trained(train, folder):
    """The run directory of a training that is long enough to learn something."""
    options = (
        "--steps 60 --batch-size 16 --learning-rate 3e-3 --checkpoint-every 60 --validate-every 60 --ema-decay 0.5"
    )
    assert run(train(*words(options), "--out", folder / "trained", "--licence", "CC-BY-4.0")) == 0
    return folder / "trained"
