"""A training run and its directory: what it leaves, which run is resumed, checkpoints that do not fit."""

import json
import shutil

import pytest
import torch
from helpers.disk import small_disk
from helpers.training import Line, LineTask, config, forget_accelerate, losses, names
from PIL import Image
from torch import nn

from largegen.errors import InputError, OutputError, TrainingError
from largegen.training.checkpoints import checkpoints
from largegen.training.log import read_metrics
from largegen.training.run import plan, train


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    """accelerate keeps one state per process."""
    yield
    forget_accelerate()


def test_a_run_leaves_all_that_it_promises(tmp_path):
    report = train(LineTask(), tmp_path, config())
    assert names(tmp_path) == [
        *("checkpoint-6", "checkpoint-8", "config.json", "loss.png", "metrics.jsonl", "model", "samples", "tensorboard")
    ]
    assert names(tmp_path / "samples") == ["step-000004.png", "step-000008.png"]
    assert Image.open(tmp_path / "loss.png").size[0] > 300
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["steps"] == 8 and saved["task"] == {"kind": "line"}
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 9))
    assert [line["step"] for line in lines if "validation_loss" in line] == [4, 8]
    assert lines[0]["size"] == 8
    assert report["model"] == str(tmp_path / "model") and report["loss"] == losses(tmp_path)[-1]


def test_latest_starts_anew_where_there_is_none(tmp_path):
    train(LineTask(), tmp_path, config(resume="latest"))
    assert len(losses(tmp_path)) == 8


def test_resume_from_an_earlier_checkpoint(tmp_path):
    train(LineTask(), tmp_path, config(checkpoints_limit=0))
    before = losses(tmp_path)
    assert [path.name for path in checkpoints(tmp_path)] == [f"checkpoint-{n}" for n in (2, 4, 6, 8)]
    task = LineTask()
    train(task, tmp_path, config(resume=str(tmp_path / "checkpoint-4")))
    assert task.passes == 4 and losses(tmp_path) == before


def test_later_checkpoints_are_of_a_future_that_is_given_up(tmp_path):
    train(LineTask(), tmp_path, config(checkpoints_limit=0, steps=12))
    train(LineTask(), tmp_path, config(steps=6, resume=str(tmp_path / "checkpoint-2")))
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-4", "checkpoint-6"]
    task = LineTask()
    train(task, tmp_path, config(resume="latest"))
    assert task.passes == 2 and [path.name for path in checkpoints(tmp_path)] == ["checkpoint-6", "checkpoint-8"]


def test_a_run_is_not_mixed_with_a_checkpoint_of_another(tmp_path):
    train(LineTask(), tmp_path / "a", config(steps=2))
    train(LineTask(), tmp_path / "b", config(steps=4))
    with pytest.raises(OutputError, match="a: holds another run than that of `resume`"):
        train(LineTask(), tmp_path / "a", config(resume=str(tmp_path / "b" / "checkpoint-2")))
    train(LineTask(), tmp_path / "c", config(steps=4, resume=str(tmp_path / "b" / "checkpoint-2")))
    assert [path.name for path in checkpoints(tmp_path / "b")] == ["checkpoint-2", "checkpoint-4"]


@pytest.mark.parametrize(
    ("task", "changes", "text"),
    [
        ({"kind": "square"}, {}, "kind line, not square"),
        ({"trained_on": [{"name": "b"}]}, {}, r"trained_on \[{'name': 'a'}\], not \[{'name': 'b'}\]"),
        ({"autoencoder": "2"}, {}, "autoencoder 1, not 2"),
        ({"channels": (1, 3)}, {}, r"channels \[1, 2\], not \[1, 3\]"),
        ({}, {"seed": 1}, "seed 0, not 1"),
        ({}, {"batch_size": 16}, "batch_size 8, not 16"),
    ],
)
def test_another_run_is_not_resumed(tmp_path, task, changes, text):
    settings = {"kind": "line", "trained_on": [{"name": "a"}], "autoencoder": "1", "channels": (1, 2)}

    def line(**more):
        made = LineTask()
        made.settings = settings | more
        return made

    train(line(), tmp_path, config(steps=2))
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(InputError, match=rf"checkpoint-2: that run has {text}; resume with the same") as raised:
        train(line(**task), tmp_path, config(resume="latest", **changes))
    assert "\n" not in str(raised.value)
    assert (tmp_path / "config.json").read_bytes() == before and len(checkpoints(tmp_path)) == 1
    train(line(), tmp_path, config(resume="latest", learning_rate=0.1, accumulation=2, log_every=2))
    assert json.loads((tmp_path / "config.json").read_text())["learning_rate"] == 0.1


def test_settings_that_an_earlier_version_did_not_write_are_not_compared(tmp_path):
    train(LineTask(), tmp_path, config(steps=2))
    task = LineTask()
    task.settings = {"kind": "line", "autoencoder": "1"}
    train(task, tmp_path, config(steps=4, resume="latest"))
    (tmp_path / "config.json").unlink()
    train(task, tmp_path, config(steps=6, resume="latest"))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: damaged"):
        train(task, tmp_path, config(resume="latest"))


def test_a_run_is_not_overwritten_unasked(tmp_path):
    train(LineTask(), tmp_path, config(steps=2))
    with pytest.raises(OutputError, match=r"holds a run already; `resume=latest` .* `overwrite=True`"):
        train(LineTask(), tmp_path, config())
    train(LineTask(), tmp_path, config(steps=3, overwrite=True))
    assert len(losses(tmp_path)) == 3
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-3"]


def test_a_folder_of_that_name_is_not_taken_for_the_model(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "precious").touch()
    with pytest.raises(OutputError):
        train(LineTask(), tmp_path, config())
    assert (tmp_path / "model" / "precious").exists()


@pytest.mark.parametrize("name", ["nothing", "checkpoint-x", "checkpoint-3"])
def test_resume_needs_a_checkpoint(tmp_path, name):
    with pytest.raises(InputError, match="not a checkpoint directory"):
        train(LineTask(), tmp_path / "out", config(resume=str(tmp_path / name)))


@pytest.mark.parametrize("file", ["model.safetensors", "state.safetensors", "state.json", "random-0.safetensors"])
def test_a_damaged_checkpoint_is_one_line(tmp_path, file):
    train(LineTask(), tmp_path, config(steps=2))
    path = tmp_path / "checkpoint-2" / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="checkpoint-2: damaged: ") as raised:
        train(LineTask(), tmp_path, config(resume="latest"))
    assert "\n" not in str(raised.value)


def test_a_checkpoint_of_another_form(tmp_path):
    train(LineTask(), tmp_path, config(steps=2))
    task = LineTask()
    task.net[1] = nn.Linear(4, 2)
    with pytest.raises(InputError, match="does not fit this run"):
        train(task, tmp_path, config(resume="latest"))


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    task = LineTask()

    def spoil(passes, loss):
        if passes == 4:
            task.net[1].bias.data.fill_(float("inf"))
        return loss

    task.spoil = spoil
    with pytest.raises(TrainingError, match="step 4: a weight is not finite"):
        train(task, tmp_path, config())
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-2"]


def test_a_full_disk_leaves_no_partial_checkpoint(tmp_path):
    class Wide(LineTask):
        def __init__(self):
            super().__init__()
            self.ballast = nn.Parameter(torch.zeros(20_000))  # 80 kB, four times in a checkpoint

        def forward(self, batch):
            loss, parts = super().forward(batch)
            return loss + self.ballast.square().sum(), parts

    with small_disk(tmp_path / "disk", 900) as disk:
        with pytest.raises(OutputError, match="no space left on the disk") as raised:
            train(Wide(), disk / "run", config(checkpoints_limit=0))
        assert "\n" not in str(raised.value)
        left = checkpoints(disk / "run")
        assert [path.name for path in left] == ["checkpoint-2", "checkpoint-4"]
        assert not [name for name in names(disk / "run") if name.startswith(".") or name == "run.lock"]
        shutil.rmtree(left[0])
        train(Wide(), disk / "run", config(steps=5, checkpoint_every=100, resume="latest", checkpoints_limit=1))
        assert [path.name for path in checkpoints(disk / "run")] == ["checkpoint-5"]


def test_what_a_kill_left_is_cleared_away(tmp_path):
    (tmp_path / ".checkpoint-2.tmp").mkdir()
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "lo')
    train(LineTask(), tmp_path, config(resume="latest"))
    assert not list(tmp_path.glob(".checkpoint*"))
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl") if "loss" in line] == list(range(1, 9))


def test_a_plan_does_nothing_and_says_how_much(tmp_path):
    found = plan(LineTask(), tmp_path / "out", config(checkpoints_limit=3))
    assert not (tmp_path / "out").exists()
    assert found["samples"] == 64 and found["parameters"] == 5 and found["task"] == {"kind": "line"}
    assert found["device"] == "cpu" and found["mixed_precision"] == "no" and found["config"]["steps"] == 8
    json.dumps(found)


def test_the_estimate_of_a_checkpoint_is_right(tmp_path):
    task = LineTask()
    task.net[1] = nn.Linear(4, 100_000)
    task.dataset = Line()
    estimate = plan(task, tmp_path, config())["checkpoint_mb"]
    train(task, tmp_path, config(steps=1))
    size = sum(file.stat().st_size for file in (tmp_path / "checkpoint-1").iterdir()) / 1e6
    assert size == pytest.approx(estimate, rel=0.05)
