"""A run goes on from the last whole checkpoint, is stopped in order by signals, and is not mixed with another."""

import logging
import multiprocessing
import os
import shutil
import signal
import time

import pytest
from helpers.training import LineTask, config, forget_accelerate, losses

from largegen.errors import InputError, OutputError
from largegen.runtime.signals import Terminated, heed_sigterm
from largegen.training.checkpoints import checkpoints
from largegen.training.log import read_metrics
from largegen.training.run import check_run, train

FILES = ("model.safetensors", "state.safetensors", "state.json", "random-0.safetensors")


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    yield
    forget_accelerate()


@pytest.fixture
def sigterm():
    """SIGTERM raises Terminated, as it does in a command."""
    before = signal.getsignal(signal.SIGTERM)
    heed_sigterm()
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with checkpoints of 2 and 4 steps."""
    out = tmp_path_factory.mktemp("run") / "run"
    train(LineTask(), out, config(steps=4))
    forget_accelerate()
    return out


@pytest.mark.parametrize("damage", ["empty", "cut", "zeroed", "missing"])
@pytest.mark.parametrize("file", FILES)
def test_the_checkpoint_before_a_damaged_one_is_taken(tmp_path, run, caplog, file, damage):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "checkpoint-4" / file
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "zeroed": bytes(len(content))}[damage])
    task = LineTask()
    with caplog.at_level(logging.WARNING, "largegen"):
        train(task, tmp_path / "run", config(steps=4, resume="latest"))
    assert task.passes == 2
    assert [record.getMessage() for record in caplog.records if "checkpoint-4: damaged: " in record.getMessage()]
    assert caplog.records[0].getMessage().endswith("; resuming from checkpoint-2")
    assert read_metrics(tmp_path / "run" / "metrics.jsonl") == read_metrics(run / "metrics.jsonl")


def test_without_a_whole_checkpoint_nothing_is_lost(tmp_path, run):
    shutil.copytree(run, tmp_path / "run")
    for checkpoint in checkpoints(tmp_path / "run"):
        (checkpoint / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="checkpoint-2: damaged"):
        train(LineTask(), tmp_path / "run", config(resume="latest"))
    assert len(checkpoints(tmp_path / "run")) == 2 and len(losses(tmp_path / "run")) == 4


def test_a_checkpoint_that_is_named_is_not_exchanged_for_another(tmp_path, run):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "checkpoint-4" / "state.json").write_bytes(b"")
    with pytest.raises(InputError, match="checkpoint-4: damaged"):
        train(LineTask(), tmp_path / "run", config(resume=str(tmp_path / "run" / "checkpoint-4")))


def test_pickles_of_an_earlier_version_are_not_read(tmp_path, run):
    shutil.copytree(run, tmp_path / "run")
    for checkpoint in checkpoints(tmp_path / "run"):
        (checkpoint / "state.json").rename(checkpoint / "custom_checkpoint_0.pkl")
    with pytest.raises(InputError, match="earlier version, whose checkpoints hold pickles"):
        train(LineTask(), tmp_path / "run", config(resume="latest"))


def test_a_log_that_a_crash_has_spoilt_is_gone_on_with(tmp_path, run):
    shutil.copytree(run, tmp_path / "run")
    log = tmp_path / "run" / "metrics.jsonl"
    log.write_bytes(log.read_bytes() + b"\x00\x00\xff\nnull\n[]\n{}\n")
    train(LineTask(), tmp_path / "run", config(steps=5, resume="latest"))
    assert len(losses(tmp_path / "run")) == 5


def test_fewer_steps_than_there_are_is_refused_before_the_work(tmp_path, run):
    shutil.copytree(run, tmp_path / "run")
    settings = config(steps=3, resume="latest")
    for refuse in (
        lambda: check_run(tmp_path / "run", settings),
        lambda: train(LineTask(), tmp_path / "run", settings),
    ):
        with pytest.raises(InputError, match=r"`steps` 3: .*checkpoint-4 has 4 behind it already"):
            refuse()
    train(LineTask(), tmp_path / "run", config(steps=4, resume="latest"))
    assert len(losses(tmp_path / "run")) == 4


@pytest.mark.parametrize(("key", "changed"), [("held_out", 0.5), ("places", 7), ("autoencoder", "2")])
def test_another_share_or_other_data_are_not_mixed(tmp_path, key, changed):
    def line(**settings):
        task = LineTask()
        task.settings |= {"held_out": 0.05, "places": 9, "autoencoder": "1"} | settings
        task.prepare = lambda: prepared.append(task)
        return task

    prepared = []
    train(line(), tmp_path, config(steps=2))
    with pytest.raises(InputError, match=f"that run has {key} .*, not {changed}"):
        train(line(**{key: changed}), tmp_path, config(resume="latest"))
    assert len(prepared) == 1  # the work before the first step is not done in vain


def test_other_data_of_the_same_names_are_warned_of(tmp_path, caplog):
    def line(digest):
        task = LineTask()
        task.settings |= {"data": digest}
        return task

    train(line("1"), tmp_path, config(steps=2))
    train(line("1"), tmp_path, config(steps=3, resume="latest"))
    assert "were others" not in caplog.text
    train(line("2"), tmp_path, config(steps=4, resume="latest"))
    assert "the data of that run were others, of the same names" in caplog.text


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"accumulation": 3}, InputError, "does not divide"),
        ({"resume": "last"}, InputError, "not a checkpoint directory"),
        ({}, OutputError, "holds a run already"),
    ],
)
def test_what_can_be_known_is_refused_before_the_work(run, settings, error, text):
    with pytest.raises(error, match=text):
        check_run(run, config(**settings))


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])
@pytest.mark.parametrize("place", ["forward", "validate"])
def test_a_signal_saves_the_last_whole_step(tmp_path, sigterm, number, error, place, caplog):
    train(LineTask(), tmp_path / "whole", config())

    class Signalled(LineTask):
        def forward(self, batch):
            if place == "forward" and self.passes == 4:
                os.kill(os.getpid(), number)
            return super().forward(batch)

        def validate(self):
            if place == "validate":
                os.kill(os.getpid(), number)
            return super().validate()

    settings = config(checkpoint_every=100)
    with pytest.raises(error):
        train(Signalled(), tmp_path / "cut", settings)
    step = 5 if place == "forward" else 4
    assert [path.name for path in checkpoints(tmp_path / "cut")] == [f"checkpoint-{step}"]
    assert f"stopped after step {step} of 8, which is saved" in caplog.text
    assert not (tmp_path / "cut" / "run.lock").exists()
    train(LineTask(), tmp_path / "cut", config(checkpoint_every=100, resume="latest"))
    assert losses(tmp_path / "cut")[step:] == losses(tmp_path / "whole")[step:]


def test_a_second_signal_does_not_wait(tmp_path, sigterm):
    class Signalled(LineTask):
        def forward(self, batch):
            if self.passes == 4:
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGTERM)
            return super().forward(batch)

    with pytest.raises(Terminated):
        train(Signalled(), tmp_path, config())
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-4"]


def test_a_signal_to_the_whole_job_saves_too(tmp_path, sigterm):
    """As schedulers send it: to the processes that prepare samples as well."""

    class Signalled(LineTask):
        def forward(self, batch):
            if self.passes == 4:
                for child in multiprocessing.active_children():
                    os.kill(child.pid, signal.SIGTERM)
                time.sleep(0.3)
                os.kill(os.getpid(), signal.SIGTERM)
            return super().forward(batch)

    with pytest.raises(Terminated):
        train(Signalled(), tmp_path, config(checkpoint_every=100, workers=1))
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-5"]
