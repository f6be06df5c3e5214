"""What train-prior makes, and grids that imagine makes with it."""

import json
import subprocess
import sys

import numpy as np
import pytest
from helpers.priors import save_grid, two_kinds
from helpers.training import losses, names
from helpers.training_commands import LOOP, fails, words
from PIL import Image

from largegen.cli import run
from largegen.embeddings.file import read_grid
from largegen.models.grid_prior import load_prior
from largegen.training.log import read_metrics

KINDS = ("low", "high")


@pytest.fixture(scope="module")
def grids(tmp_path_factory):
    """Eight files of two kinds: embeddings whose first number is about -3 or 3."""
    folder = tmp_path_factory.mktemp("grids")
    for number in range(8):
        save_grid(folder / f"{KINDS[number % 2]}-{number}.h5", two_kinds(8, 8, number % 2, number))
    (folder / "labels.csv").write_text(
        "file,label\n" + "".join(f"{KINDS[n % 2]}-{n},{KINDS[n % 2]}\n" for n in range(8))
    )
    return folder


@pytest.fixture(scope="module")
def train(grids):
    small = words("--steps 4 --batch-size 8 --checkpoint-every 2 --validate-every 4 --width 64 --layers 2")
    return lambda *more: ["train-prior", str(grids), *map(str, (*small, "--components", 4, *LOOP, *more))]


@pytest.fixture(scope="module")
def trained(train, grids, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "a"
    learn = words("--steps 300 --batch-size 16 --learning-rate 3e-3 --checkpoint-every 300 --ema-decay 0.9")
    validate = words("--validate-every 300 --validation 0.2 --window 4")
    assert run(train(*learn, *validate, "--labels", grids / "labels.csv", "--out", out)) == 0
    return out


def test_train_prior_makes_a_prior(trained, grids):
    assert {"checkpoint-300", "metrics.jsonl", "model", "samples"} <= set(names(trained))
    found = losses(trained)
    assert np.mean(found[-20:]) < 0.8 * np.mean(found[:20])
    assert read_metrics(trained / "metrics.jsonl")[-1]["validation_loss"] < 1.2
    prior = load_prior(trained, "cpu")
    assert list(prior.config.labels) == ["high", "low"] and list(prior.config.scales) == [0.5]
    assert prior.info.encoder == "an-encoder" and prior.info.licence == "CC-BY-4.0" and prior.info.name == "a"
    sheet = Image.open(trained / "samples" / "step-000300.png")
    assert sheet.size == (4 * 132 - 4, 128)


@pytest.mark.parametrize("label", KINDS)
def test_imagine_follows_the_label(trained, tmp_path, label):
    out = tmp_path / "grid.h5"
    command = words("imagine --size 768 --seed 1 --device cpu --steps 20 --prior", trained, "--label", label)
    assert run([*command, "--out", str(out)]) == 0
    grid = read_grid(out)
    assert grid.features.shape == (12, 12, 16) and grid.tissue.mean() > 0.9
    right = grid.features[..., 0] > 0 if label == "high" else grid.features[..., 0] < 0
    assert right[grid.tissue].mean() > 0.9


def test_a_resumed_run_learns_the_same(train, grids, tmp_path):
    labels = ["--labels", grids / "labels.csv"]
    assert run(train(*labels, "--out", tmp_path / "whole")) == 0
    assert run(train(*labels, "--steps", 2, "--out", tmp_path / "parts")) == 0
    assert run(train(*labels, "--resume", "latest", "--out", tmp_path / "parts")) == 0
    # The learning rate's cosine is that of 2 steps at first.
    assert losses(tmp_path / "whole")[:2] == losses(tmp_path / "parts")[:2] and len(losses(tmp_path / "parts")) == 4


def test_a_dry_run_says_what_would_be_trained(train, grids, tmp_path, capsys):
    assert run(train("--labels", grids / "labels.csv", "--out", tmp_path / "a", "--dry-run")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["task"]["labels"] == ["high", "low"] and found["task"]["windows"] == 8 and found["parameters"] > 1000
    assert not (tmp_path / "a").exists()


def two_processes(arguments) -> str:
    launch = words("-m torch.distributed.run --standalone --nproc_per_node=2 -m largegen")
    done = subprocess.run([sys.executable, *launch, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_two_processes_train_and_imagine_what_one_does(train, grids, tmp_path):
    learn = train("--labels", grids / "labels.csv")
    assert two_processes([*learn, "--out", tmp_path / "two"]).count("use it as") == 1
    assert run([*learn, "--out", str(tmp_path / "one")]) == 0
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    assert names(tmp_path / "two") == names(tmp_path / "one")
    ask = words("imagine --size 512 --label low --steps 2 --device cpu --prior", tmp_path / "one")
    assert two_processes([*ask, "--out", tmp_path / "two.h5"]).count("tiles; use it as") == 1
    assert run([*ask, "--out", str(tmp_path / "one.h5")]) == 0
    two, one = (read_grid(tmp_path / name) for name in ("two.h5", "one.h5"))
    assert np.allclose(two.features, one.features, atol=1e-5) and np.array_equal(two.tissue, one.tissue)


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--captions", "a.csv", "--clip", "ViT-B-32/openai"], "--captions, --clip: give only one of them"),
        (["--width", "100"], "--width 100: must be a multiple of 64"),
        (["--labels", "none.csv"], "none.csv: cannot be read"),
    ],
)
def test_wrong_input_is_one_line(train, tmp_path, capsys, more, text):
    fails(capsys, train("--out", tmp_path / "a", *more), 2, text)


def test_a_file_of_two_labels(train, tmp_path, capsys):
    (tmp_path / "labels.csv").write_text("file,label\nlow-0,a\nlow-0,b\n")
    fails(
        capsys, train("--out", tmp_path / "a", "--labels", tmp_path / "labels.csv"), 2, "low-0.h5 has the labels a, b"
    )


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--label", "other"], "--label other: prior a knows high, low"),
        (["--prompt", "high"], "--prompt: prior a takes no text; it knows labels only: high, low"),
        (["--size", "full"], "--size full: give N or WxH"),
        (["--size", "0"], "--size: must be 1 px or more"),
        (["--mag", "40"], "--mag 40: the prior knows 20x"),
    ],
)
def test_wrong_requests_are_one_line(trained, tmp_path, capsys, more, text):
    command = ["imagine", "--prior", str(trained), "--out", str(tmp_path / "a.h5"), "--device", "cpu", *more]
    fails(capsys, command, 2, text)
    assert not (tmp_path / "a.h5").exists()
