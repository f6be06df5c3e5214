"""The loop over steps on a network of a few weights: exact resumption, same losses however the batch is cut, errors."""

import json
import os

import pytest
import torch
from accelerate.state import PartialState
from diffusers.training_utils import EMAModel
from helpers.training import LineTask, Stop, config, forget_accelerate, losses, stop_at, times_at
from safetensors.torch import load_file

from largegen.errors import InputError, TrainingError
from largegen.training.accelerator import make_accelerator
from largegen.training.checkpoints import checkpoints
from largegen.training.log import read_metrics
from largegen.training.run import train


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    """accelerate keeps one state per process."""
    yield
    forget_accelerate()


def test_it_learns(tmp_path):
    train(LineTask(dropout=0.0), tmp_path, config(steps=100, checkpoint_every=100, validate_every=100))
    found = losses(tmp_path)
    assert sum(found[-5:]) < 0.05 * sum(found[:5])


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_resumed_run_has_the_losses_of_the_uninterrupted_one(tmp_path, schedule):
    train(LineTask(), tmp_path / "whole", config(schedule=schedule))
    with pytest.raises(Stop):
        train(LineTask(stop_at(6)), tmp_path / "cut", config(schedule=schedule))
    assert len(losses(tmp_path / "cut")) == 5  # one past the last checkpoint
    assert [path.name for path in checkpoints(tmp_path / "cut")] == ["checkpoint-2", "checkpoint-4"]
    train(LineTask(), tmp_path / "cut", config(schedule=schedule, resume="latest"))
    assert read_metrics(tmp_path / "cut" / "metrics.jsonl") == read_metrics(tmp_path / "whole" / "metrics.jsonl")
    whole, cut = (torch.load(tmp_path / run / "model" / "net.pt") for run in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_resumed_run_goes_on_with_the_settings_it_is_given(tmp_path, schedule):
    train(LineTask(), tmp_path / "whole", config(schedule=schedule))
    with pytest.raises(Stop):
        train(LineTask(stop_at(6)), tmp_path / "cut", config(schedule=schedule))
    changes = {"learning_rate": 0.01, "weight_decay": 0.5, "ema_decay": 0.0}
    task = LineTask()
    train(task, tmp_path / "cut", config(schedule=schedule, resume="latest", **changes))
    whole, cut = (
        [x["learning_rate"] for x in read_metrics(tmp_path / run / "metrics.jsonl") if "loss" in x]
        for run in ("whole", "cut")
    )
    assert cut[:4] == whole[:4] and cut[4:] == pytest.approx([rate / 5 for rate in whole[4:]])
    state = json.loads((tmp_path / "cut" / "checkpoint-8" / "state.json").read_text())
    assert state["optimizer"][0]["weight_decay"] == 0.5
    exported = torch.load(tmp_path / "cut" / "model" / "net.pt")["1.weight"]
    assert torch.equal(exported, task.net[1].weight)  # the average over no more than the last step


def test_the_first_step_after_resuming_has_the_new_rate(tmp_path):
    train(LineTask(), tmp_path, config(steps=4))
    train(LineTask(), tmp_path, config(steps=5, learning_rate=0.0, resume="latest"))
    states = [load_file(tmp_path / f"checkpoint-{n}" / "model.safetensors")["net.1.weight"] for n in (4, 5)]
    assert torch.equal(*states)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_run_on_a_gpu_is_resumed(tmp_path):
    train(LineTask(), tmp_path, config(steps=4, device="cuda"))
    train(LineTask(), tmp_path, config(device="cuda", resume="latest"))
    assert len(losses(tmp_path)) == 8


def test_the_averaged_weights_are_moved_to_the_device_after_loading(tmp_path, monkeypatch):
    train(LineTask(), tmp_path, config(steps=2))
    calls = []
    for name in ("load_state_dict", "to", "step"):
        original = getattr(EMAModel, name)
        monkeypatch.setattr(EMAModel, name, lambda s, *a, n=name, f=original, **k: (calls.append(n), f(s, *a, **k))[1])
    train(LineTask(), tmp_path, config(steps=3, resume="latest"))
    assert calls == ["to", "load_state_dict", "to", "step"]


@pytest.mark.parametrize(("launcher", "found"), [(None, "bf16"), ("no", "bf16"), ("fp16", "fp16"), ("bf16", "bf16")])
def test_auto_precision_is_the_hardware_s_unless_the_launcher_names_one(monkeypatch, launcher, found):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if launcher:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    monkeypatch.setattr("largegen.runtime.device.cpu_has_bf16", lambda: True)
    made = []
    monkeypatch.setattr("largegen.training.accelerator.Accelerator", lambda **options: made.append(options))
    make_accelerator(config(mixed_precision="auto"))
    make_accelerator(config(mixed_precision="no"))
    assert [options["mixed_precision"] or os.environ["ACCELERATE_MIXED_PRECISION"] for options in made] == [found, "no"]


def test_accumulated_micro_batches_are_one_batch(tmp_path):
    train(LineTask(dropout=0.0), tmp_path / "one", config())
    for number in (2, 8):
        out = tmp_path / str(number)
        train(LineTask(dropout=0.0), out, config(accumulation=number))
        assert read_metrics(out / "metrics.jsonl")[0]["size"] == 8 / number
        assert losses(out) == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
        PartialState._reset_state()


def test_batches_that_cannot_be_cut_evenly(tmp_path):
    with pytest.raises(InputError, match="`batch_size` 8 does not divide into 1 process"):
        train(LineTask(), tmp_path / "out", config(accumulation=3))


def test_validation_and_export_see_the_averaged_weights(tmp_path):
    task = LineTask()
    train(task, tmp_path, config(ema_decay=0.99))
    exported = torch.load(tmp_path / "model" / "net.pt")["1.weight"]
    assert torch.equal(task.seen[-1], exported)
    assert not torch.equal(task.net[1].weight, exported)


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, factor, clip):
    with pytest.raises(TrainingError, match=r"step 6: the loss is (nan|inf); .*`resume`"):
        train(LineTask(times_at(6, factor)), tmp_path, config(checkpoint_every=1, clip=clip))
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-4", "checkpoint-5"]
    train(LineTask(), tmp_path, config(resume="latest"))  # the last checkpoint is sound
    assert len(losses(tmp_path)) == 8


class _Steep(torch.autograd.Function):
    @staticmethod
    def forward(context, loss):
        return loss.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient * float("inf")


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path):
    def spoil(passes, loss):
        return _Steep.apply(loss) if passes == 4 else loss

    with pytest.raises(TrainingError, match="step 4: the gradient is"):
        train(LineTask(spoil), tmp_path, config())
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-2"]


def test_workers_change_nothing(tmp_path):
    for workers in (0, 2):
        train(LineTask(), tmp_path / str(workers), config(workers=workers))
    assert losses(tmp_path / "0") == losses(tmp_path / "2")


def test_fp16_needs_an_accelerator(tmp_path):
    with pytest.raises(InputError, match="`mixed_precision` fp16: not on a CPU"):
        train(LineTask(), tmp_path, config(mixed_precision="fp16"))
