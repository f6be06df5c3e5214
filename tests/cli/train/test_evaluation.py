"""Samples that are evaluated during training."""

from pathlib import Path

import numpy as np
import pytest
from helpers.slides import tissue_like
from helpers.training import losses
from helpers.training_commands import fails, words

from largegen.cli import run
from largegen.models.encoder import load_encoder
from largegen.training.log import read_metrics
from largegen.training.sample_metrics import SampleMetrics


def evaluations(out: Path) -> dict[int, dict[str, float]]:
    """The figures of samples, by step."""
    lines = read_metrics(out / "metrics.jsonl")
    return {line["step"]: line for line in lines if any(name.startswith("fd:") for name in line)}


def test_samples_are_evaluated_during_training(train, encoder, tmp_path):
    command = train("--out", tmp_path / "a", *words("--eval-every 2 --eval-samples 8"))
    assert run(command) == 0
    found, name = evaluations(tmp_path / "a"), f"fd:local-dir:{encoder / 'model'}"
    assert list(found) == [2, 4] and all(set(line) == {"step", name, "similarity"} for line in found.values())
    assert all(line[name] > 0 and -1 <= line["similarity"] <= 1 for line in found.values())
    assert found[2] != found[4]
    # Looking changes nothing: the next losses are those of a run that does not look.
    assert run(train("--out", tmp_path / "b")) == 0
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


def test_samples_of_each_level_are_evaluated_by_the_encoder_asked_for(train, tmp_path):
    zooming = words("--conditioner summarizer --levels 2 --steps 1 --eval-every 5 --eval-encoder starter")
    assert run(train("--out", tmp_path / "a", *zooming)) == 0
    (line,) = evaluations(tmp_path / "a").values()  # at the last step, whatever the interval
    names_of_levels = {f"{figure}_level_{k}" for figure in ("fd:starter", "similarity") for k in (0, 1)}
    assert set(line) == {"step"} | names_of_levels


def test_figures_of_samples_order_good_before_bad():
    sample_metrics = SampleMetrics(load_encoder("starter", device="cpu"), every=1, samples=8)
    rng = np.random.default_rng(0)
    real = np.stack([tissue_like(256, 256, seed) for seed in range(8)])
    noisy = (real + rng.normal(0, 40, real.shape)).clip(0, 255).astype(np.uint8)
    same, worse = sample_metrics.figures(real, real), sample_metrics.figures(real, noisy)
    assert same["fd:starter"] == pytest.approx(0, abs=1e-6) and same["similarity"] == pytest.approx(1, abs=1e-6)
    assert worse["fd:starter"] > 0.01 and worse["similarity"] < 0.95


def test_nothing_held_out_cannot_be_evaluated(train, tmp_path, capsys):
    fails(capsys, train("--out", tmp_path / "a", *words("--eval-every 2 --validation 0")), 2, "raise --validation")
