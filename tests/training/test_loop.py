"""The training loop on a network of a few weights: exact resumption, same losses however the batch is cut, errors."""

import json
import os
import shutil
import sys

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from diffusers.training_utils import EMAModel
from helpers.disk import small_disk
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import Dataset

from largegen.errors import InputError, OutputError, TrainingError
from largegen.images.contact_sheet import contact_sheet, lay_out
from largegen.training.accelerator import make_accelerator
from largegen.training.checkpoints import checkpoints
from largegen.training.config import LoopConfig
from largegen.training.log import Metrics, plot_losses, read_metrics
from largegen.training.run import plan, train
from largegen.training.sampler import sample_rng
from largegen.training.task import Task


class Line(Dataset):
    """y = sum(x) of 4 random numbers."""

    def __getitem__(self, sample):
        x = torch.from_numpy(sample_rng(0, sample).standard_normal(4, "float32"))
        return {"x": x, "y": x.sum()[None]}


class LineTask(Task):
    """A linear layer behind dropout; `spoil` may change the loss of a forward pass, counted from 1."""

    def __init__(self, spoil=lambda number, loss: loss, dropout=0.1):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Dropout(dropout), nn.Linear(4, 1))
        self.dataset, self.settings = Line(), {"kind": "line"}
        self.spoil, self.passes, self.seen = spoil, 0, []

    def forward(self, batch):
        self.passes += 1
        loss = (self.net(batch["x"]) - batch["y"]).square().mean()
        return self.spoil(self.passes, loss), {"size": torch.tensor(float(len(batch["x"])))}

    def validate(self):
        self.seen.append(self.net[1].weight.detach().clone())
        return {"validation_loss": 1.0}

    def preview(self, path):
        Image.new("RGB", (4, 4)).save(path)

    def export(self, directory):
        directory.mkdir()
        torch.save(self.net.state_dict(), directory / "net.pt")


class Stop(Exception):
    pass


def stop_at(number):
    def spoil(passes, loss):
        if passes == number:
            raise Stop
        return loss

    return spoil


def times_at(number, factor):
    return lambda passes, loss: loss * factor if passes == number else loss


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    """accelerate keeps one state per process."""
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def config(**changes):
    """The settings of a short run."""
    usual = {"steps": 8, "batch_size": 8, "warmup_steps": 2, "learning_rate": 0.05, "workers": 0, "device": "cpu"}
    every = {"log_every": 1, "checkpoint_every": 2, "validate_every": 4, "mixed_precision": "no"}
    return LoopConfig(**{**usual, **every, **changes})


def losses(out):
    return [line["loss"] for line in read_metrics(out / "metrics.jsonl") if "loss" in line]


def names(out):
    return sorted(path.name for path in out.iterdir())


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
    optimizer = torch.load(tmp_path / "cut" / "checkpoint-8" / "optimizer.bin")
    assert optimizer["param_groups"][0]["weight_decay"] == 0.5
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


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.bin", "custom_checkpoint_1.pkl"])
def test_a_damaged_checkpoint_is_one_line(tmp_path, file):
    train(LineTask(), tmp_path, config(steps=2))
    path = tmp_path / "checkpoint-2" / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="checkpoint-2: damaged, or does not fit") as raised:
        train(LineTask(), tmp_path, config(resume="latest"))
    assert "\n" not in str(raised.value)


def test_a_checkpoint_of_another_form(tmp_path):
    train(LineTask(), tmp_path, config(steps=2))
    task = LineTask()
    task.net[1] = nn.Linear(4, 2)
    with pytest.raises(InputError, match="does not fit this run"):
        train(task, tmp_path, config(resume="latest"))


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


def test_tensorboard_is_optional(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    train(LineTask(), tmp_path, config())
    assert not (tmp_path / "tensorboard").exists()
    assert len(losses(tmp_path)) == 8


def test_workers_change_nothing(tmp_path):
    for workers in (0, 2):
        train(LineTask(), tmp_path / str(workers), config(workers=workers))
    assert losses(tmp_path / "0") == losses(tmp_path / "2")


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


def test_fp16_needs_an_accelerator(tmp_path):
    with pytest.raises(InputError, match="`mixed_precision` fp16: not on a CPU"):
        train(LineTask(), tmp_path, config(mixed_precision="fp16"))


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


def test_images_are_laid_out_row_by_row(tmp_path):
    import numpy as np

    images = np.stack([np.full((2, 3, 3), 50 * n, np.uint8) for n in range(4)])
    sheet = lay_out(images, 2, gap_px=1)
    contact_sheet(images, 2, tmp_path / "a.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), lay_out(images, 2))
    assert sheet.shape == (5, 7, 3)
    assert [sheet[y, x, 0] for y in (0, 3) for x in (0, 4)] == [0, 50, 100, 150]
    assert (sheet[2] == 255).all() and (sheet[:, 3] == 255).all()
