"""Odd environments, files of settings and leftovers of others: one clear line, or the work is done all the same."""

import os
import socket
import subprocess
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.denoisers import TRAIN
from helpers.disk import small_disk
from helpers.embeddings import MeanColour
from helpers.training import LineTask, config, forget_accelerate

from largegen.cli import run
from largegen.conditioning.reference import SlideOnDemand
from largegen.embeddings.options import EmbedOptions
from largegen.errors import InputError, LargegenError, OutputError
from largegen.runtime import distributed
from largegen.runtime.files import cache_directory
from largegen.sampling.schedulers import SCHEDULERS, make_scheduler
from largegen.sampling.settings import Sampling
from largegen.slides.slide import open_slide
from largegen.training import loop
from largegen.training.run import train


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    yield
    forget_accelerate()


@pytest.fixture
def toml(tmp_path, capsys):
    def call(content: bytes, *more) -> tuple[int, str]:
        (tmp_path / "run.toml").write_bytes(content)
        capsys.readouterr()
        code = run(["generate", "--config", str(tmp_path / "run.toml"), "--embeddings", "none.h5", *more])
        return code, capsys.readouterr().err

    return call


def test_a_file_of_settings_may_begin_with_a_mark(toml):
    assert "none.h5" in toml("\ufeffsize = 256\n".encode())[1]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"steps = true", "steps: takes a value, not true"),
        (b"size = true", "size: takes a value, not true"),
        (b"overwrite = 1", "overwrite: takes true or false, not 1"),
        (b"seed = 2.5", "seed: 2.5 is no whole number"),
        (b"steps = [1, 2]", "steps: takes one value, not a list"),
        (b"steps = 1979-05-27", "none of text, number"),
    ],
)
def test_a_value_of_another_type_is_not_taken_for_one(toml, content, text):
    code, error = toml(content)
    assert code == 2 and text in error, error


def test_one_path_where_several_may_be(tmp_path, capsys):
    (tmp_path / "run.toml").write_text('real = "nowhere"\nfake = ["nowhere"]\n')
    assert run(["eval", "--config", str(tmp_path / "run.toml")]) == 2
    assert "nowhere: no such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["-1", str(2**63)])
@pytest.mark.parametrize("command", ["generate", "zoom", "sample", "eval", "train", "train-vae", "train-encoder"])
def test_seeds_have_one_range(capsys, command, flag):
    more = {"eval": ["--real", "a", "--fake", "b"], "train": ["a", "--out", "b"]}
    arguments = more.get(command, ["a", "--out", "b"] if command.startswith("train") else ["--embeddings", "a.h5"])
    assert run([command, *arguments, "--seed", flag]) == 2
    assert "--seed" in capsys.readouterr().err


@pytest.mark.parametrize("name", SCHEDULERS)
def test_steps_that_a_message_advises_work(name):
    uneven = 0
    for steps in range(1, 1001):
        try:
            Sampling(steps=steps).check()
            advised = steps
        except InputError as error:
            uneven += 1
            advised = int(str(error).rsplit(" ", 1)[1])
            Sampling(steps=advised).check()
        if advised != steps or steps % 97 == 0:
            assert len(make_scheduler(name, TRAIN, advised).timesteps) == advised
    assert uneven


def test_a_group_that_does_not_come_is_named(monkeypatch, caplog):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "MEETING_TIMEOUT", timedelta(seconds=1))
    monkeypatch.setattr(distributed, "LATE_S", 0.2)
    with pytest.raises(LargegenError, match=r"the other 1 of 2 processes \(WORLD_SIZE\) did not come"):
        distributed.process_group(torch.device("cpu"))
    assert f"waiting for the others at 127.0.0.1:{port}" in caplog.text
    monkeypatch.delenv("MASTER_ADDR")
    with pytest.raises(InputError, match="'MASTER_ADDR' is not said; unset WORLD_SIZE"):
        distributed.process_group(torch.device("cpu"))


def test_too_little_shared_memory_is_done_without(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(loop.shutil, "disk_usage", lambda path: SimpleNamespace(free=100, total=100, used=0))
    train(LineTask(), tmp_path, config(steps=2, workers=2))
    assert "samples are prepared without them" in caplog.text


def test_a_start_over_deletes_what_a_run_has_made_and_nothing_else(tmp_path):
    train(LineTask(), tmp_path, config(steps=2))
    (tmp_path / "checkpoint-best").mkdir()
    for name in ("checkpoint-notes.txt", "samples/mine.png", "notes.txt"):
        (tmp_path / name).write_text("x")
    train(LineTask(), tmp_path, config(steps=1, overwrite=True))
    assert all(
        (tmp_path / n).exists() for n in ("checkpoint-best", "checkpoint-notes.txt", "samples/mine.png", "notes.txt")
    )
    assert not (tmp_path / "checkpoint-2").exists() and (tmp_path / "checkpoint-1").exists()


@pytest.fixture
def on_demand(slide_path):
    """Embed the first tiles of a slide, with a cache."""
    with open_slide(slide_path) as slide:

        def embedded(cache):
            source = SlideOnDemand(slide, 1.0, EmbedOptions(tile_px=100), cache=cache)
            model = SimpleNamespace(device=torch.device("cpu"))
            return source.embeddings(model, MeanColour, lambda *_: None)((3, 3, 2, 2))

        yield embedded


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, on_demand, caplog):
    (tmp_path / "file").write_text("no folder")
    wanted = on_demand(tmp_path / "cache")
    found = on_demand(tmp_path / "file" / "cache")
    assert (found.features == wanted.features).all()
    assert "cannot be used" in caplog.text and "are not kept" in caplog.text


def test_a_cache_on_a_disk_that_is_read_only(tmp_path, on_demand, caplog):
    """Filled, it is read; else it is done without."""
    with small_disk(tmp_path / "disk", 400) as folder:
        wanted = on_demand(folder / "filled")
        (folder / "empty").mkdir()
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        assert (on_demand(folder / "filled").features == wanted.features).all() and not caplog.text
        assert (on_demand(folder / "empty").features == wanted.features).all()
        assert "are not kept" in caplog.text


def test_a_filled_cache_is_read_without_writing(tmp_path, on_demand, monkeypatch):
    wanted = on_demand(tmp_path)

    def refused(*_, **__):
        raise OutputError("read-only")

    monkeypatch.setattr("largegen.embeddings.embed.lock", refused)
    assert (on_demand(tmp_path).features == wanted.features).all()


def test_a_damaged_file_in_the_cache_is_made_anew(tmp_path, on_demand, caplog):
    wanted = on_demand(tmp_path)
    (file,) = tmp_path.glob("*.h5")
    file.write_bytes(file.read_bytes()[:1000])
    assert (on_demand(tmp_path).features == wanted.features).all()
    assert "embedding it anew" in caplog.text


def test_without_a_home_the_cache_is_named(monkeypatch):
    def none():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", none)
    with pytest.raises(OutputError, match="no home directory"):
        cache_directory()


@pytest.mark.skipif(os.name != "posix", reason="names are text there")
def test_a_name_that_is_no_utf8_is_one_line(tmp_path, slide_path, capsys):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/gr\xfcn.tif")
    Path(name).write_bytes(slide_path.read_bytes())
    code = run(["embed", name, "--out", str(tmp_path / "e"), "--device", "cpu"])
    error = capsys.readouterr().err
    assert code == 0 or "unexpected" not in error, error
