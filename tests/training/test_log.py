"""The log of a training run and its plot."""

import sys

import pytest
from helpers.training import LineTask, config, forget_accelerate, losses
from PIL import Image

from largegen.training.log import Metrics, plot_losses, read_metrics
from largegen.training.run import train


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    """accelerate keeps one state per process."""
    yield
    forget_accelerate()


def test_tensorboard_is_optional(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    train(LineTask(), tmp_path, config())
    assert not (tmp_path / "tensorboard").exists()
    assert len(losses(tmp_path)) == 8


def test_figures_that_are_not_finite_are_null(tmp_path):
    log = Metrics(tmp_path, 0)
    log.log(1, loss=2.0, gradient_norm=float("inf"))
    log.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 2.0, "gradient_norm": None}]


def test_a_plot_of_losses(tmp_path):
    plot_losses(
        [{"step": 1, "loss": 2.0}, {"step": 2, "loss": None}, {"step": 2, "validation_loss": 1.0}], tmp_path / "a.png"
    )
    assert len(set(Image.open(tmp_path / "a.png").convert("RGB").getdata())) > 2
