"""Sets of small images, and `largegen eval` of them."""

import json

import numpy as np
import pytest
from helpers.models import save_encoder, save_model
from helpers.slides import save_slide, tissue_like
from PIL import Image

from largegen.cli import run
from largegen.metrics.features.networks import perceptual_network

QUICK = ("--device", "cpu", "--crop-px", 64, "--crops", 40, "--replicates", 2)


def cut(folder, count, seed, size=64):
    """A folder of squares of one H&E-like image."""
    folder.mkdir(parents=True)
    pixels, rng = tissue_like(700, 700, 5), np.random.default_rng(seed)
    for number in range(count):
        x, y = rng.integers(100, 600 - size, 2)
        Image.fromarray(pixels[y : y + size, x : x + size]).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Sets of patches, a slide, a tiny model's image of it, and a tiny encoder. Read only."""
    root = tmp_path_factory.mktemp("eval")
    save_slide(root / "slide.tif", tissue_like(700, 600), 0.5)
    encoder = save_encoder(root / "encoder")
    model = save_model(root / "model", encoder, levels=3)
    options = ["--ref", root / "slide.tif", "--model", model, "--cache", root, "--steps", 2, "--device", "cpu"]
    for command, out in (("generate", "a.png"), ("zoom", "zoomed.png")):
        more = ["--size", 256, "--out", root / out, *(["--levels"] if command == "zoom" else [])]
        assert run([command, "-q", *map(str, [*options, *more])]) == 0
    cut(root / "real", 50, 0)
    cut(root / "fake", 50, 1)
    return root


@pytest.fixture
def fd(root):
    return f"fd:local-dir:{root / 'encoder'}"


@pytest.fixture
def evaluate(root, capsys, monkeypatch):
    """Run the command in the folder of the sets: exit code, stdout, stderr."""
    monkeypatch.chdir(root)

    def call(*arguments, real="real", fake="fake") -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(["eval", "-q", *map(str, ["--real", real, "--fake", fake, *QUICK, *arguments])])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def figures(evaluate):
    """The JSON object of a run, and its figures by level and name."""

    def call(*arguments, code=0, **sets) -> tuple[dict, dict]:
        found, out, err = evaluate("--json", *arguments, **sets)
        assert found == code and not err, err
        content = json.loads(out, parse_constant=pytest.fail)
        return content, {(at["level"], f["name"]): f for at in content["levels"] for f in at["figures"]}

    return call


@pytest.fixture
def fails(evaluate):
    """Run the command, which must fail with one line; gives it."""

    def call(*arguments, code=2, **sets) -> str:
        found, out, err = evaluate(*arguments, **sets)
        assert (found, out) == (code, "") and err.startswith("error: ") and err.count("\n") == 1, err
        return err

    return call


@pytest.fixture
def no_perceptual_network():
    """Call the package of VGG16 absent, so that what is computed by default does not depend on it; gives the undo."""
    perceptual_network.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("largegen.models.perceptual.find_spec", lambda _: None)
        yield patch.undo
    perceptual_network.cache_clear()
