"""Training killed, and shared between processes."""

import os
import signal
import subprocess
import sys
import time

import pytest
from helpers.training import losses, names
from helpers.training_commands import LOOP, words

from largegen.cli import run


def test_training_killed_in_the_middle_goes_on_as_if_it_had_not_been(train, tmp_path):
    steps = "--steps 2000 --checkpoint-every 5 --validate-every 2000 --checkpoints-limit 2"
    command = [sys.executable, "-m", "largegen", *train(*words(steps), "--out", tmp_path / "cut")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            while not list((tmp_path / "cut").glob("checkpoint-*")) and process.poll() is None:
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL
    last = max(int(path.name.split("-")[1]) for path in (tmp_path / "cut").glob("checkpoint-*"))
    more = words("--checkpoint-every 100 --validate-every 200 --steps", last + 10)
    assert run(train(*more, "--resume", "latest", "--out", tmp_path / "cut")) == 0
    assert run(train(*more, "--out", tmp_path / "whole")) == 0
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert not list((tmp_path / "cut").glob(".checkpoint*")) and not (tmp_path / "cut" / "run.lock").exists()


@pytest.mark.parametrize(
    "command",
    ["train", *(pytest.param(name, marks=pytest.mark.slow) for name in ("train-vae", "train-encoder"))],
)
def test_two_processes_do_what_one_does(train, slide, tmp_path, command):
    if command == "train":
        arguments = train()
    else:
        sizes = "--preset tiny" if command == "train-vae" else "--architecture test_resnet --tile-px 64 --input-px 32"
        steps = "--steps 3 --batch-size 8 --checkpoint-every 3"
        arguments = [command, str(slide), *words(sizes), *words(steps), *LOOP]
    launch = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --main_process_port 0 -m largegen"
    done = subprocess.run(
        [sys.executable, *words(launch), *arguments, "--out", str(tmp_path / "two")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("use it as") == 1
    assert run([*arguments, "--out", str(tmp_path / "one")]) == 0
    assert names(tmp_path / "two") == names(tmp_path / "one")
    if command == "train-encoder":  # a crop's rivals, and batch normalisation, are those of its own process
        assert len(losses(tmp_path / "two")) == len(losses(tmp_path / "one"))
    else:
        assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


def test_accumulated_micro_batches_are_one_batch(train, short, tmp_path):
    assert run(train("--accumulation", "4", "--out", tmp_path)) == 0
    assert losses(tmp_path) == pytest.approx(losses(short), rel=1e-5)
